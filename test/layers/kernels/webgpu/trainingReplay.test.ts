import * as tf from '@tensorflow/tfjs';
import {AdamW, Llama} from '../../../../src/index.ts';
import {PassRecorder} from '../../../../src/training/steps/passRecorder.ts';
import {describeWebGPU} from './webgpuOnly.ts';

const SHAPE = {
  ...{vocabSize: 64, hiddenSize: 64, intermediateSize: 96, numHiddenLayers: 2, headDim: 16},
  ...{numAttentionHeads: 4, numKeyValueHeads: 2, maxPositionEmbeddings: 64, tieWordEmbeddings: true},
};

/** Numbers that differ from step to step. */
const batchOf = (step: number, length: number) => {
  const rows = [0, 1].map((b) =>
    Array.from({length}, (_, t) => (7 * b + 5 * t + 3 * step) % SHAPE.vocabSize),
  );
  return {inputIds: rows, labels: rows};
};

describeWebGPU('a recorded training step', () => {
  const replays = jest.spyOn(PassRecorder.prototype as unknown as {replayed(): unknown}, 'replayed');
  beforeEach(() => replays.mockClear());

  /** Returns losses and norms of steps of these lengths. */
  async function train(lengths: number[], isRecorded: boolean): Promise<number[]> {
    const model = Llama.fromConfig(SHAPE, {dtype: 'float16', seed: 1});
    model.applyLoRA({rank: 4, targetModules: 'all-linear', seed: 0});
    model.compile({optimizer: new AdamW({learningRate: 1e-2})});
    if (!isRecorded) model.lossPass = () => undefined;
    const numbers: number[] = [];
    for (const [step, length] of lengths.entries()) {
      const {loss, gradNorm} = await model.trainOnBatch(batchOf(step, length));
      numbers.push(loss, gradNorm);
    }
    model.optimizer.dispose();
    model.dispose();
    return numbers;
  }

  test('is replayed from the third of a kind on, gives the same numbers, and leaves nothing behind', async () => {
    const lengths = [12, 12, 12, 12, 9, 12, 12, 12];
    const plain = await train(lengths, false);
    const before = tf.memory().numTensors;
    expect(await train(lengths, true)).toEqual(plain);
    expect(replays).toHaveBeenCalledTimes(3);
    expect(tf.memory().numTensors).toBe(before);
  });

  test('is not replayed for another adapter, scaling or checkpointing', async () => {
    const model = Llama.fromConfig(SHAPE, {dtype: 'float16', seed: 1});
    const options = {rank: 4, targetModules: 'all-linear' as const, seed: 0};
    model.applyLoRA(options);
    model.compile({optimizer: new AdamW({learningRate: 1e-2})});
    const step = () => model.trainOnBatch(batchOf(0, 12));
    for (let i = 0; i < 3; i++) await step();
    expect(replays).toHaveBeenCalledTimes(1);
    model.gradientCheckpointing = false;
    await step();
    model.applyLoRA({...options, adapterName: 'other'});
    await step();
    await step();
    expect(replays).toHaveBeenCalledTimes(1);
    model.dispose();
  });
});
