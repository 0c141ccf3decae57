import type * as tf from '@tensorflow/tfjs';
import type {StoredMatrix} from './storedMatrix.ts';
import {unpack16} from './unpack16.ts';

/** A stored matrix as float32, `[rows, cols]`; a new tensor, or a new handle on the same data. */
export function unpackMatrix({tensor, dtype, cols}: StoredMatrix): tf.Tensor2D {
  return dtype === 'float32' ? (tensor as tf.Tensor2D).clone() : unpack16(tensor as tf.Tensor2D, dtype, cols);
}
