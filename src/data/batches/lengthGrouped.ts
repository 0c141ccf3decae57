import {TfjsLoraError} from '../../../quant/errors.ts';
import {isBatch, shuffled, type TrainingData} from './batches.ts';
import {type AnyExample, type Example, isPair, isVerdict, longestRow} from './collate.ts';

/** Maximum number of batches whose examples are sorted together. */
const MOST_BATCHES = 50;

/**
 * Orders items so that neighbours have about the same length, which saves padding. The items are shuffled and cut into
 * stretches of many batches, and each stretch is sorted, longest first. The longest item of all comes first, so that a
 * lack of memory shows immediately. Follows transformers' `LengthGroupedSampler`.
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
 * Orders training data by {@link lengthGrouped}.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for anything but a list of examples whose ids are numbers
 */
export function orderedByLength(data: TrainingData, batchSize: number, seed: string): AnyExample[] {
  const isExample = (item: unknown) =>
    isPair(item) ||
    isVerdict(item) ||
    (Array.isArray((item as Example)?.inputIds) && !isBatch(item as Example));
  if (Array.isArray(data) && data.every(isExample))
    return lengthGrouped(data as AnyExample[], longestRow, batchSize, seed);
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `fitDataset groupByLength: expected a list of examples, got ${Array.isArray(data) ? 'batches or tensors' : 'data that is not a list'}`,
  );
}
