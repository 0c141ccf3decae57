import type * as tf from '@tensorflow/tfjs';
import {customGradient} from './customGradient.ts';

/** Reshapes a tensor without keeping it for backward, which needs only its shape; `tf.reshape` keeps it. */
export function reshaped(x: tf.Tensor, shape: number[]): tf.Tensor {
  const given = x.shape;
  return customGradient(
    [x],
    () => ({value: x.reshape(shape)}),
    (dy) => [dy.reshape(given)],
  );
}
