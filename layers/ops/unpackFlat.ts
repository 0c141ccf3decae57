import * as tf from '@tensorflow/tfjs';
import {dispatch} from './dispatch.ts';
import {op, type Tensors} from './op.ts';

export const unpackFlatOp = op<Tensors<'flat'>, {shapes: number[][]}, tf.Tensor[]>('UnpackFlat');

/**
 * Copies the numbers of a tensor of {@link packFlat} back into tensors of their own. Not differentiable.
 *
 * @param flat float32 `[total number of elements]`
 * @param shapes shapes of the tensors, in their order
 */
export function unpackFlat(flat: tf.Tensor1D, shapes: number[][]): tf.Tensor[] {
  return dispatch(unpackFlatOp, {flat}, {shapes}, () =>
    tf
      .split(
        flat,
        shapes.map((shape) => tf.util.sizeFromShape(shape)),
      )
      .map((part, i) => part.reshape(shapes[i])),
  );
}
