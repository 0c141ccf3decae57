import * as tf from '@tensorflow/tfjs';
import {dispatch} from './dispatch.ts';
import {op} from './op.ts';

export const packFlatOp = op<tf.TensorInfo[], Record<never, never>, tf.Tensor1D>('PackFlat');

/**
 * Copies the numbers of tensors into one tensor, in their order. Not differentiable.
 *
 * @param tensors float32, at least one
 * @returns `[total number of elements]`
 */
export function packFlat(tensors: tf.Tensor[]): tf.Tensor1D {
  return dispatch(packFlatOp, tensors, {}, () => tf.concat1d(tensors.map((tensor) => tensor.flatten())));
}
