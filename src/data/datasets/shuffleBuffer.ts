import {NumpyRandom} from './numpyRandom.ts';

/** Number of indices drawn together, as in Hugging Face's `datasets`. */
const DRAWN_AT_ONCE = 1000;

/**
 * Shuffles a stream through a buffer: each incoming item replaces one drawn from it. The order is that of Hugging
 * Face's `IterableDataset.shuffle` for the same seed.
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

/** Returns the seed of an epoch. The first epoch's is `seed` itself. */
export function epochSeed(seed: number, epoch: number): number | bigint {
  if (epoch === 0) return seed;
  const shifted = new NumpyRandom(seed).integer63() - BigInt(epoch);
  return shifted < 0n ? shifted + (1n << 63n) : shifted;
}
