import * as tf from '@tensorflow/tfjs';
import {customGradient} from '../../../layers/ops/customGradient.ts';

/**
 * Computes something of a tensor as a constant: no gradient flows through it.
 *
 * @param compute Default: the tensor itself
 */
export function stopGradient(x: tf.Tensor, compute: (x: tf.Tensor) => tf.Tensor = tf.clone): tf.Tensor {
  const {shape} = x; // x itself may be gone when backward comes
  return customGradient(
    [x],
    () => ({value: compute(x)}),
    () => [tf.zeros(shape)],
  );
}
