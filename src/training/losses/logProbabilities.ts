import * as tf from '@tensorflow/tfjs';
import type {TokenLosses} from '../../../models/batchLoss.ts';

/**
 * Adds up the log-probabilities of each row's labels, `[B]`.
 *
 * @param weightOf weight of the i-th label that counts in a row. Default 1
 */
export function logProbabilities(
  {losses, counts}: TokenLosses,
  weightOf: (row: number, i: number) => number = () => 1,
): tf.Tensor1D {
  const [rows, labels] = [counts.length, losses.shape[0]];
  const weights = new Float32Array(rows * labels);
  let at = 0;
  for (const [row, count] of counts.entries())
    for (let i = 0; i < count; i++, at++) weights[row * labels + at] = -weightOf(row, i);
  return tf.sum(tf.mul(tf.tensor2d(weights, [rows, labels]), losses), 1) as tf.Tensor1D;
}
