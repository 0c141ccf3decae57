import * as tf from '@tensorflow/tfjs';
import type {HalfDtype} from '../../quant/float16.ts';
import {dispatch} from './dispatch.ts';
import {op, type Tensors} from './op.ts';
import {reshaped} from './reshaped.ts';
import type {DenseMatrix} from './storedMatrix.ts';
import {unpack16} from './unpack16.ts';

export const embeddingOp = op<Tensors<'ids' | 'table'>, {dtype: HalfDtype; cols: number}, tf.Tensor2D>(
  'Embedding',
);

/**
 * Looks up rows of a table by index. A float32 table gets a gradient if it is a trained variable; a packed one is
 * frozen, and only the rows looked up are widened.
 *
 * @param ids `[...]` int32, each in `[0, rows)`
 * @param table `[rows, cols]`
 * @returns `[..., cols]` float32
 */
export function embedding(ids: tf.Tensor, table: DenseMatrix): tf.Tensor {
  return tf.tidy(() => {
    const {tensor, dtype, cols} = table;
    const flat = ids.flatten() as tf.Tensor1D;
    const rows =
      dtype === 'float32'
        ? tf.gather(tensor as tf.Tensor2D, flat)
        : dispatch(embeddingOp, {ids: flat, table: tensor}, {dtype, cols}, () =>
            unpack16(tf.gather(tensor as tf.Tensor2D, flat), dtype, cols),
          );
    return reshaped(rows, [...ids.shape, cols]);
  });
}
