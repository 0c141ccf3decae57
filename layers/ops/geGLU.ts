import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {customGradient} from './customGradient.ts';

const [SLOPE, CUBE] = [Math.sqrt(2 / Math.PI), 0.044715];

/**
 * Gated linear unit with a GELU gate: `gelu(gate) · up`, with the tanh approximation `gelu(x) = x/2 · (1 + tanh(√(2/π) ·
 * (x + 0.044715 x³)))`. Shazeer 2020, Hendrycks & Gimpel 2016.
 *
 * @param gate `[...]` float32
 * @param up same shape as `gate`
 * @returns same shape as `gate`
 */
export function geGLU(gate: tf.Tensor, up: tf.Tensor): tf.Tensor {
  assertShape('geGLU up', up, gate.shape);
  const bentOf = (x: tf.Tensor, squared: tf.Tensor) =>
    tf.tanh(tf.mul(x, tf.add(tf.mul(squared, SLOPE * CUBE), SLOPE)));
  const geluOf = (x: tf.Tensor, bent: tf.Tensor) => tf.mul(tf.mul(x, 0.5), tf.add(bent, 1));
  return tf.tidy(() =>
    customGradient(
      [gate, up],
      () => ({value: geluOf(gate, bentOf(gate, tf.square(gate))).mul(up), saved: [gate, up]}),
      (dy, [savedGate, savedUp]) => {
        const squared = tf.square(savedGate);
        const bent = bentOf(savedGate, squared);
        const inner = tf.add(tf.mul(squared, 3 * SLOPE * CUBE), SLOPE); // slope of the tanh's argument
        const steep = tf.mul(tf.mul(savedGate, 0.5), tf.mul(tf.sub(1, tf.square(bent)), inner));
        const slope = tf.add(tf.mul(tf.add(bent, 1), 0.5), steep); // d gelu / d gate
        return [tf.mul(tf.mul(dy, savedUp), slope), tf.mul(dy, geluOf(savedGate, bent))];
      },
    ),
  );
}
