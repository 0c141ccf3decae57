import {mkdtemp, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {AdamW, Llama, useBackend} from '../../../../src/index.ts';
import {installGuaranteedDevice} from './guaranteedLimits.ts';

/**
 * A table of 78 KiB in 16 bits, and feed-forward of 104 KiB in a batch of 2 × 26. All parts have more than 16 rows: fewer
 * have shaders of their own, which take long to compile.
 */
const SHAPE = {
  ...{vocabSize: 624, hiddenSize: 64, intermediateSize: 512, numHiddenLayers: 1, headDim: 16},
  ...{numAttentionHeads: 4, numKeyValueHeads: 2, maxPositionEmbeddings: 64, tieWordEmbeddings: true},
};
const BINDING = 64 * 2 ** 10;

const isAsked = process.env.TFJS_LORA_TEST_BACKENDS?.split(',').includes('webgpu');
(isAsked ? describe : describe.skip)('a webgpu device with the limits that every device has', () => {
  let folder: string;

  beforeAll(async () => {
    await installGuaranteedDevice(BINDING);
    folder = await mkdtemp(join(tmpdir(), 'tfjs-lora-limits-'));
    await useBackend('cpu');
    const model = Llama.fromConfig(SHAPE, {dtype: 'bfloat16', seed: 1});
    await model.save(folder);
    model.dispose();
  });
  afterAll(() => rm(folder, {recursive: true}));

  /** Returns losses and trained weights after two steps, and the embedding's table. */
  async function train(backend: 'cpu' | 'webgpu') {
    await useBackend(backend);
    const model = await Llama.fromPretrained(folder, {
      dtype: 'bfloat16',
      quantization: {type: 'nf4', doubleQuant: true},
    });
    model.applyLoRA({rank: 4, targetModules: ['v_proj', 'down_proj'], seed: 0});
    model.gradientCheckpointing = true;
    model.compile({optimizer: new AdamW({learningRate: 1e-2}), maxGradNorm: 1});
    const rowOf = (b: number) => Array.from({length: 26}, (_, t) => (37 * b + 53 * t) % SHAPE.vocabSize);
    const inputIds = [rowOf(1), rowOf(2)];
    const attentionMask = inputIds.map((row, b) => row.map((_, t) => Number(t < row.length - 3 * b)));
    const labels = inputIds.map((row, b) => row.map((id, t) => (attentionMask[b][t] ? id : -100)));
    const losses: number[] = [];
    for (let i = 0; i < 2; i++)
      losses.push((await model.trainOnBatch({inputIds, attentionMask, labels})).loss);
    const weights: number[] = [];
    for (const weight of model.trainableParameters().values()) weights.push(...(await weight.data()));
    const table = await model.embed_tokens.weight.read().data();
    model.optimizer.dispose();
    model.dispose();
    return {losses, weights, table: Array.from(table)};
  }

  test('trains LoRA on nf4 as cpu does, with tensors split', async () => {
    const expected = await train('cpu');
    const before = tf.memory().numTensors;
    const got = await train('webgpu');
    expect(tf.memory().numTensors).toBe(before);
    expect(got.table).toEqual(expected.table); // read back from its parts
    for (const [i, loss] of got.losses.entries()) expect(loss).toBeCloseTo(expected.losses[i], 4);
    const largest = Math.max(...expected.weights.map(Math.abs));
    for (const [i, weight] of got.weights.entries())
      expect(Math.abs(weight - expected.weights[i]) / largest).toBeLessThan(1e-4);
  });
});
