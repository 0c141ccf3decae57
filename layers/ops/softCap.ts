import * as tf from '@tensorflow/tfjs';

/** Bounds values smoothly: `bound · tanh(x / bound)`, as Gemma 2 does with scores and logits. Same shape as `x`. */
export function softCap(x: tf.Tensor, bound: number): tf.Tensor {
  return tf.tidy(() => tf.mul(tf.tanh(tf.div(x, bound)), bound));
}
