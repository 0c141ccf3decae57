import * as tf from '@tensorflow/tfjs';
import {type BackendOptions, useBackend} from '../../../../src/training/backends/useBackend.ts';
import {expectNoLeak} from '../../../describeEachBackend.ts';
import {expectClose} from '../../../expectClose.ts';

/**
 * Runs `describe` on the `webgpu` backend if `TFJS_LORA_TEST_BACKENDS` names it; otherwise it shows as skipped. Values
 * are read asynchronously there, because nothing else works.
 */
export function describeWebGPU(name: string, body: () => void): void {
  const isAsked = process.env.TFJS_LORA_TEST_BACKENDS?.split(',').includes('webgpu');
  (isAsked ? describe : describe.skip)(`${name} on webgpu`, () => {
    beforeAll(() => choose('float32'));
    body();
  });
}

/** Chooses the number type of products. */
export async function choose(computeDtype: BackendOptions['computeDtype']): Promise<void> {
  await useBackend('webgpu', {computeDtype});
}

/** Runs {@link expectClose} on two tensors on the card, and disposes them. */
export async function expectSame(actual: tf.Tensor, expected: tf.Tensor, relative = 1e-5): Promise<void> {
  expect(actual.shape).toEqual(expected.shape);
  const scale = tf.tidy(() => tf.max(tf.abs(expected)));
  const [largest] = await scale.data();
  const unit = largest > 0 ? largest : 1;
  const [got, want] = [await actual.data(), await expected.data()];
  const over = (values: ArrayLike<number>) => Float32Array.from(values, (value) => value / unit);
  expectClose(over(got), over(want), {relative});
  tf.dispose([scale, actual, expected]);
}

// biome-ignore lint/suspicious/noExplicitAny: of whatever rank the operation takes
type Op = (...inputs: any[]) => tf.Tensor;

/**
 * Expects an op and a reference in plain TensorFlow.js to agree in value and in every gradient, and the op to leave no
 * tensor behind.
 *
 * @param relative to the largest magnitude of each tensor. Default 1e-5
 */
export async function expectSameFunction(
  op: Op,
  reference: Op,
  inputs: tf.Tensor[],
  relative = 1e-5,
  dyScale = 1,
): Promise<void> {
  const value = tf.tidy(() => op(...inputs));
  const dy = tf.randomNormal(value.shape, 0, dyScale, 'float32', 99);
  await expectSame(
    value,
    tf.tidy(() => reference(...inputs)),
    relative,
  );
  const gradients = tf.grads(op)(inputs, dy);
  const expected = tf.grads(reference)(inputs, dy);
  for (const [i, gradient] of gradients.entries()) await expectSame(gradient, expected[i], relative);
  expectNoLeak(() => tf.tidy(() => op(...inputs)));
  expectNoLeak(() => tf.grads(op)(inputs, dy));
  dy.dispose();
}

/** Seeded standard normal numbers. */
export const normal = (shape: number[], seed: number, deviation = 1): tf.Tensor =>
  tf.randomNormal(shape, 0, deviation, 'float32', seed);
