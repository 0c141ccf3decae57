import {NumpyRandom} from './numpyRandom.ts';

/** Indices that are drawn at once, as by Hugging Face's `datasets`. */
const DRAWN_AT_ONCE = 1000;

/**
 * Shuffles a stream through a buffer: each item that comes in replaces one drawn from it. The order that Hugging Face's
 * `IterableDataset.shuffle` gives for the same seed.
 */
export async function* shuffleBuffer<T>(
  items: AsyncIterable<T>,
  size: number,
  seed: number | bigint,
): AsyncGenerator<T, void, undefined> {
  const random = new NumpyRandom(seed);
  const buffer: T[] = [];
  let drawn: number[] = [];
  for await (const item of items) {
    if (buffer.length < size) {
      buffer.push(item);
      continue;
    }
    if (drawn.length === 0) drawn = Array.from({length: DRAWN_AT_ONCE}, () => random.integer(size)).reverse();
    const at = drawn.pop() as number;
    yield buffer[at];
    buffer[at] = item;
  }
  yield* random.shuffle(buffer);
}

/** The seed of an epoch: the first epoch's is the seed itself. */
export function epochSeed(seed: number, epoch: number): number | bigint {
  if (epoch === 0) return seed;
  const shifted = new NumpyRandom(seed).integer63() - BigInt(epoch);
  return shifted < 0n ? shifted + (1n << 63n) : shifted;
}
