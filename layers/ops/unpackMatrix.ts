import type * as tf from '@tensorflow/tfjs';
import {dequantizeRows} from './dequantizeRows.ts';
import {isQuantized, type StoredMatrix} from './storedMatrix.ts';
import {unpack16} from './unpack16.ts';

/** Returns a stored matrix as float32, `[rows, cols]`: a new tensor, or a new handle on the same data. */
export function unpackMatrix(matrix: StoredMatrix): tf.Tensor2D {
  if (isQuantized(matrix)) return dequantizeRows(matrix);
  const {tensor, dtype, cols} = matrix;
  return dtype === 'float32' ? (tensor as tf.Tensor2D).clone() : unpack16(tensor as tf.Tensor2D, dtype, cols);
}
