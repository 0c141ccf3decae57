import type * as tf from '@tensorflow/tfjs';
import type {WeightFormat} from '../weights/weightFormat.ts';

/** A product with a stored weight: what every way to multiply is given. */
export interface Product {
  /** `[m, k]` float32. */
  x: tf.TensorInfo;
  weight: WeightFormat;
  /** Of the stored matrix. */
  rows: number;
  cols: number;
  /** `x · Wᵀ` (k = cols, n = rows) or `x · W` (k = rows, n = cols). */
  transposeWeight: boolean;
}
