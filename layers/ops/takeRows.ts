import * as tf from '@tensorflow/tfjs';
import {customGradient} from './customGradient.ts';

/**
 * Takes rows of a matrix by index. Its gradient adds up in one op, while that of `tf.gather` first copies it twice.
 *
 * @param x `[N, C]` float32
 * @param places `[n]` int32, each in `[0, N)`
 * @returns `[n, C]` float32
 */
export function takeRows(x: tf.Tensor2D, places: tf.Tensor1D): tf.Tensor2D {
  const [rows] = x.shape;
  return customGradient(
    [x],
    () => ({value: tf.gather(x, places), saved: [places]}),
    (dy, [saved]) => [tf.unsortedSegmentSum(dy, saved as tf.Tensor1D, rows)],
  );
}
