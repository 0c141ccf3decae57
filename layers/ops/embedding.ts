import * as tf from '@tensorflow/tfjs';
import type {DenseMatrix} from './storedMatrix.ts';
import {unpack16} from './unpack16.ts';

/**
 * Rows of a table by index. A float32 table gets a gradient when it is a trained variable; a packed one is
 * frozen, and only the rows asked for are widened.
 *
 * @param ids `[...]` int32, each in `[0, rows)`
 * @param table `[rows, cols]`
 * @returns `[..., cols]` float32
 */
export function embedding(ids: tf.Tensor, table: DenseMatrix): tf.Tensor {
  return tf.tidy(() => {
    const flat = ids.flatten() as tf.Tensor1D;
    const stored = tf.gather(table.tensor as tf.Tensor2D, flat);
    const rows = table.dtype === 'float32' ? stored : unpack16(stored, table.dtype, table.cols);
    return rows.reshape([...ids.shape, table.cols]);
  });
}
