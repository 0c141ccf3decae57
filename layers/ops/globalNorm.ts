import * as tf from '@tensorflow/tfjs';
import {dispatch} from './dispatch.ts';
import {op} from './op.ts';

export const globalNormOp = op<tf.TensorInfo[], Record<never, never>, tf.Scalar>('GlobalNorm');

/**
 * Returns the global L2 norm of tensors such as a step's gradients: the root of the sum of all squares. Not
 * differentiable.
 *
 * @param tensors float32, at least one
 * @returns scalar
 */
export function globalNorm(tensors: tf.Tensor[]): tf.Scalar {
  return dispatch(globalNormOp, tensors, {}, () =>
    tf.sqrt(tf.addN(tensors.map((tensor) => tf.sum(tf.square(tensor)) as tf.Scalar))),
  );
}
