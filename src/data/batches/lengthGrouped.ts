import {TfjsLoraError} from '../../../quant/errors.ts';
import {isBatch, shuffled, type TrainingData} from './batches.ts';
import type {Example} from './collate.ts';

/** Batches whose examples are sorted together, at most. */
const MOST_BATCHES = 50;

/**
 * An order in which neighbours are of about one length, so that little is padded: the items are shuffled, cut into
 * stretches of many batches, and each stretch is sorted, the longest first. The longest of all comes first, so that memory
 * that is not enough shows at once. As transformers' `LengthGroupedSampler`.
 *
 * @param batchSize items of one optimizer step
 */
export function lengthGrouped<T>(
  items: readonly T[],
  lengthOf: (item: T) => number,
  batchSize: number,
  seed: string,
): T[] {
  const stretch = batchSize * Math.max(1, Math.min(Math.floor(items.length / (batchSize * 4)), MOST_BATCHES));
  const order = shuffled(items, seed);
  const stretches: T[][] = [];
  for (let at = 0; at < order.length; at += stretch)
    stretches.push(order.slice(at, at + stretch).sort((a, b) => lengthOf(b) - lengthOf(a)));
  let longest = 0;
  for (const [i, [first]] of stretches.entries())
    if (lengthOf(first) > lengthOf(stretches[longest][0])) longest = i;
  if (stretches.length > 0)
    [stretches[0][0], stretches[longest][0]] = [stretches[longest][0], stretches[0][0]];
  return stretches.flat();
}

/**
 * Training data in that order.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for anything but a list of examples whose ids are numbers
 */
export function orderedByLength(data: TrainingData, batchSize: number, seed: string): Example[] {
  const isExample = (item: unknown) =>
    Array.isArray((item as Example)?.inputIds) && !isBatch(item as Example);
  if (Array.isArray(data) && data.every(isExample))
    return lengthGrouped(data as Example[], ({inputIds}) => inputIds.length, batchSize, seed);
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `fitDataset groupByLength: expected a list of examples, got ${Array.isArray(data) ? 'batches or tensors' : 'data that is read as it comes'}`,
  );
}
