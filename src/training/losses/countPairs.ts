import * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../../models/batchLoss.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';

/**
 * Returns the number of pairs in a batch.
 *
 * @param loss name of the loss that compares them, for messages
 * @throws TfjsLoraError `SHAPE_MISMATCH` for an odd number of rows, or none
 */
export function countPairs(loss: string, {inputIds}: Batch): number {
  const rows = inputIds instanceof tf.Tensor ? inputIds.shape[0] : inputIds.length;
  if (rows > 0 && rows % 2 === 0) return rows / 2;
  throw new TfjsLoraError(
    'SHAPE_MISMATCH',
    `${loss} batch inputIds: expected pairs, the chosen answers before the rejected ones, got ${rows} rows`,
  );
}
