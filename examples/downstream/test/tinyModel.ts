import assert from 'node:assert/strict';
import * as tf from '@tensorflow/tfjs';
import {AdamW, type Llama} from 'tfjs-lora';

/** The config of a Llama of a few thousand weights. */
export const TINY = {
  vocabSize: 32,
  hiddenSize: 16,
  intermediateSize: 24,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 32,
  initializerRange: 0.3,
};

export const rows = [
  [1, 5, 3, 18, 7, 30],
  [2, 2, 9, 0, 11, 4],
];
export const batch = {inputIds: rows, labels: rows};

type Predicting = Pick<Llama, 'predict'>;

export function logitsOf(model: Predicting): Float32Array {
  return tf.tidy(() => model.predict(rows).dataSync() as Float32Array).slice();
}

export function assertClose(got: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  assert.equal(got.length, expected.length);
  const worst = Array.from(got, (value, i) => Math.abs(value - expected[i])).reduce(
    (a, b) => Math.max(a, b),
    0,
  );
  assert.ok(worst <= tolerance, `expected differences of at most ${tolerance}, got ${worst}`);
}

/** Trains a few steps, which must lower the loss. */
export async function assertLearns(
  model: Pick<Llama, 'compile' | 'trainOnBatch'>,
  learningRate = 0.05,
): Promise<void> {
  const optimizer = new AdamW({learningRate});
  model.compile({optimizer});
  const {loss: first} = await model.trainOnBatch(batch);
  for (let step = 0; step < 5; step++) await model.trainOnBatch(batch);
  const {loss: last} = await model.trainOnBatch(batch);
  optimizer.dispose();
  assert.ok(last < first, `expected a loss below ${first}, got ${last}`);
}
