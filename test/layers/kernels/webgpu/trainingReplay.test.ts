import * as tf from '@tensorflow/tfjs';
import {AdamW, Llama} from '../../../../src/index.ts';
import {PassRecorder} from '../../../../src/training/steps/passRecorder.ts';
import {choose, describeWebGPU} from './webgpuOnly.ts';

const SHAPE = {
  ...{vocabSize: 64, hiddenSize: 64, intermediateSize: 96, numHiddenLayers: 2, headDim: 16},
  ...{numAttentionHeads: 4, numKeyValueHeads: 2, maxPositionEmbeddings: 64, tieWordEmbeddings: true},
};

/** Examples of these lengths, two for each. */
const examplesOf = (lengths: number[]) =>
  lengths.flatMap((length, step) =>
    [0, 1].map((b) => {
      const ids = Array.from({length}, (_, t) => (7 * b + 5 * t + 3 * step) % SHAPE.vocabSize);
      return {inputIds: ids, labels: ids};
    }),
  );

describeWebGPU('a recorded training step', () => {
  const replays = jest.spyOn(PassRecorder.prototype as unknown as {replayed(): unknown}, 'replayed');
  beforeEach(() => replays.mockClear());

  function makeModel() {
    const model = Llama.fromConfig(SHAPE, {dtype: 'float16', seed: 1});
    model.applyLoRA({rank: 4, targetModules: 'all-linear', seed: 0});
    model.compile({optimizer: new AdamW({learningRate: 1e-2})});
    return model;
  }

  /** Returns the weights after steps of these lengths. */
  async function train(lengths: number[], isRecorded: boolean): Promise<number[]> {
    const model = makeModel();
    if (!isRecorded) model.lossPass = () => undefined;
    await model.fitDataset(examplesOf(lengths), {batchSize: 2, epochs: 1, shuffle: false, verbose: 0});
    const weights: number[] = [];
    for (const weight of model.trainableParameters().values()) weights.push(...(await weight.data()));
    model.optimizer.dispose();
    model.dispose();
    return weights;
  }

  test('is replayed from the third of a kind on, gives the same weights, and leaves nothing behind', async () => {
    const lengths = [12, 12, 12, 12, 9, 12, 12, 12];
    const plain = await train(lengths, false);
    const before = tf.memory().numTensors;
    expect(await train(lengths, true)).toEqual(plain);
    expect(replays).toHaveBeenCalledTimes(3);
    expect(tf.memory().numTensors).toBe(before);
  });

  test('is replayed where one op computes all blocks, and another the loss', async () => {
    await choose('float16');
    await train([12, 12, 12, 12], true);
    await choose('float32');
    expect(replays).toHaveBeenCalledTimes(2);
  });

  test('exists only in fitDataset, during which nothing else changes the model', async () => {
    const model = makeModel();
    const [first, second] = examplesOf([12]);
    const batch = {inputIds: [first.inputIds, second.inputIds], labels: [first.labels, second.labels]};
    for (let i = 0; i < 3; i++) await model.trainOnBatch(batch);
    expect(replays).not.toHaveBeenCalled();
    model.dispose();
  });
});
