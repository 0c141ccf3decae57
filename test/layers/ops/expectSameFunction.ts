import * as tf from '@tensorflow/tfjs';
import {expectNoLeak} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';

// biome-ignore lint/suspicious/noExplicitAny: of whatever rank the operation takes
type Op = (...inputs: any[]) => tf.Tensor;

/**
 * Expects an operation and a reference to agree in value and in the gradient of every input, and the operation to leave
 * no tensor behind in forward, in backward, and when its value is computed inside a tidy.
 *
 * @param relative default 1e-5
 */
export function expectSameFunction(op: Op, reference: Op, inputs: tf.Tensor[], relative = 1e-5): void {
  const value = op(...inputs);
  const expected = reference(...inputs);
  expectClose(value, expected, {relative});
  const dy = tf.randomNormal(value.shape, 0, 1, 'float32', 99);
  const gradients = tf.grads(op)(inputs, dy);
  const expectedGradients = tf.grads(reference)(inputs, dy);
  gradients.forEach((gradient, i) => {
    expectClose(gradient, expectedGradients[i], {relative});
  });
  tf.dispose([value, expected, gradients, expectedGradients]);
  expectNoLeak(() => op(...inputs));
  expectNoLeak(() => tf.grads(op)(inputs, dy));
  // What backward needs must outlive the tidy that forward ran in.
  const wrapped = tf.grads((...xs: tf.Tensor[]) => tf.tidy(() => op(...xs)))(inputs, dy);
  const again = tf.grads(op)(inputs, dy);
  wrapped.forEach((gradient, i) => {
    expectClose(gradient, again[i], {relative: 0});
  });
  tf.dispose([wrapped, again, dy]);
}

/** Returns the slope of the sum of `f` along each element of `x`, by central differences. */
export function numericalGradient(f: (x: tf.Tensor) => tf.Tensor, x: tf.Tensor, step = 1e-2): Float32Array {
  const values = x.dataSync();
  const at = (i: number, shift: number) =>
    tf.tidy(() => {
      const moved = Float32Array.from(values);
      moved[i] += shift;
      return f(tf.tensor(moved, x.shape)).sum().dataSync()[0];
    });
  return Float32Array.from(values, (_, i) => (at(i, step) - at(i, -step)) / (2 * step));
}

/** Seeded standard normal numbers. */
export function normal<R extends tf.Rank>(shape: tf.ShapeMap[R], seed: number): tf.Tensor<R> {
  return tf.randomNormal<R>(shape, 0, 1, 'float32', seed);
}
