import * as tf from '@tensorflow/tfjs';
import {embeddingNoise} from '../../models/embeddingNoise.ts';
import {Llama} from '../../src/index.ts';
import {tinyConfig} from './tinyLlama.ts';

beforeAll(() => tf.setBackend('cpu'));

test("noise is uniform in transformers' range", async () => {
  const noise = embeddingNoise([4, 25, 64], 5, 1);
  const values = (await noise.data()) as Float32Array;
  noise.dispose();
  const largest = 5 / Math.sqrt(25 * 64);
  const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
  const variance = values.reduce((sum, x) => sum + x * x, 0) / values.length;
  expect(Math.max(...values)).toBeLessThanOrEqual(largest);
  expect(Math.max(...values)).toBeGreaterThan(0.99 * largest);
  expect(Math.min(...values)).toBeLessThan(-0.99 * largest);
  expect(mean).toBeCloseTo(0, 2);
  expect(variance / (largest ** 2 / 3)).toBeCloseTo(1, 1);
});

test('only training passes have it, repeatable by their seed, and are not recorded', () => {
  const model = Llama.fromConfig({...tinyConfig}, {seed: 1});
  model.applyLoRA({rank: 2});
  const batch = {inputIds: [[1, 2, 3, 4]], labels: [[1, 2, 3, 4]]};
  const loss = (options: {training?: boolean; seed?: number}) =>
    tf.tidy(() => model.lossSum(batch, options).dataSync()[0]);
  const plain = loss({});
  expect(loss({training: true, seed: 1})).toBe(plain);
  expect(model.lossPass(batch)).toBeDefined();
  model.neftuneNoiseAlpha = 5;
  const noisy = loss({training: true, seed: 1});
  expect(noisy).not.toBe(plain);
  expect(loss({training: true, seed: 1})).toBe(noisy);
  expect(loss({training: true, seed: 2})).not.toBe(noisy);
  expect(loss({})).toBe(plain);
  expect(model.lossPass(batch)).toBeUndefined();
  expect(() => {
    model.neftuneNoiseAlpha = -1;
  }).toThrow('neftuneNoiseAlpha: expected a number from 0, got -1');
  model.dispose();
});
