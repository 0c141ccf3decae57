import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import {NumpyRandom} from './numpyRandom.ts';

/** Smaller sizes count as 0. */
const NONE = 1e-6;

/**
 * Takes a validation part out of examples. It takes the rows that LLaMA-Factory (`train_test_split` of Hugging Face's
 * data sets) takes for the same seed, in the same order.
 *
 * @param valSize a fraction below 1, or a count from 1; 0 takes none and keeps the order
 * @throws TfjsLoraError `INVALID_ARGUMENT` when nothing would be left to train on
 */
export function splitValidation<T>(
  examples: readonly T[],
  valSize: number,
  seed: number | bigint = 42,
): {train: T[]; validation: T[]} {
  const isNumber = typeof valSize === 'number';
  if (isNumber && valSize <= NONE && valSize >= 0) return {train: [...examples], validation: []};
  const count = valSize >= 1 ? Math.trunc(valSize) : Math.ceil(valSize * examples.length);
  if (!(isNumber && valSize > 0 && count < examples.length)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `valSize: expected a fraction below 1, or a count below ${examples.length}, the number of examples, ` +
        `got ${show(valSize)}`,
    );
  }
  const order = new NumpyRandom(seed).permutation(examples.length).map((i) => examples[i]);
  return {train: order.slice(count), validation: order.slice(0, count)};
}
