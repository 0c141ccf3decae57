import type * as tf from '@tensorflow/tfjs';
import type {WeightFormat} from '../weights/weightFormat.ts';

/** A product with a stored weight: the arguments of every way to multiply. */
export interface Product {
  /** `[m, k]` float32. */
  x: tf.TensorInfo;
  weight: WeightFormat;
  /** Rows of the stored matrix. */
  rows: number;
  cols: number;
  /** Whether to compute `x · Wᵀ` (k = cols, n = rows) or `x · W` (k = rows, n = cols). */
  transposeWeight: boolean;
}
