import type * as tf from '@tensorflow/tfjs';
import type {StorageDtype} from '../../quant/float16.ts';

/**
 * A `[rows, cols]` matrix as it lies in memory. `float32`: `tensor` is float32 `[rows, cols]`. 16-bit
 * types: `tensor` is int32 `[rows, ceil(cols / 2)]`, element 2j of a row in the low half of word j.
 */
export interface StoredMatrix {
  tensor: tf.Tensor;
  dtype: StorageDtype;
  rows: number;
  cols: number;
}

/** The shape of the tensor that stores a `[rows, cols]` matrix of that type. */
export function storedShape(dtype: StorageDtype, rows: number, cols: number): [number, number] {
  return [rows, dtype === 'float32' ? cols : Math.ceil(cols / 2)];
}
