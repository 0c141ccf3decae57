import {NumpyRandom} from './numpyRandom.ts';

/**
 * How several data sets are mixed: one after the other, or in turn until the first (`under`) or the last (`over`) of
 * them ends. `over` starts shorter data sets again; `once` leaves them out when they end.
 */
export type MixStrategy = 'concat' | 'interleave_under' | 'interleave_over' | 'interleave_once';

export const MIX_STRATEGIES: MixStrategy[] = [
  'concat',
  'interleave_under',
  'interleave_over',
  'interleave_once',
];

export interface MixOptions {
  strategy: MixStrategy;
  /** Probability of each data set. Default: they take turns. */
  probabilities?: readonly number[];
  seed: number | bigint;
}

/** Mixes data sets, in the order that Hugging Face's `interleave_datasets` gives for the same seed. */
export async function* mixDatasets<T>(
  datasets: readonly (() => AsyncIterable<T>)[],
  {strategy, probabilities, seed}: MixOptions,
): AsyncGenerator<T, void, undefined> {
  if (datasets.length === 1 || strategy === 'concat') {
    for (const dataset of datasets) yield* dataset();
    return;
  }
  const readers = datasets.map((dataset) => new ReadAhead(dataset));
  try {
    const isOver =
      strategy === 'interleave_under'
        ? () => readers.some((reader) => reader.isUsedUp)
        : () => readers.every((reader) => reader.isUsedUp);
    for (const i of turns(datasets.length, probabilities, seed)) {
      const isRoundOpen = !probabilities && i > 0; // a round of turns is completed
      if (!isRoundOpen && isOver()) return;
      const reader = readers[i];
      if (strategy === 'interleave_once' && reader.isUsedUp) continue;
      const next = await reader.next();
      if (next) yield next.value;
    }
  } finally {
    await Promise.all(readers.map((reader) => reader.close()));
  }
}

function* turns(count: number, probabilities: readonly number[] | undefined, seed: number | bigint) {
  if (!probabilities) for (let i = 0; ; i = (i + 1) % count) yield i;
  const random = new NumpyRandom(seed);
  for (;;) yield random.choice(probabilities);
}

/** Reads a data set repeatedly, one item ahead, to know when an item was the last. */
class ReadAhead<T> {
  /** Whether each item has been returned at least once. */
  isUsedUp = false;
  private iterator?: AsyncIterator<T>;
  private ahead?: IteratorResult<T>;

  constructor(private readonly dataset: () => AsyncIterable<T>) {}

  /** @returns undefined when the data set is empty */
  async next(): Promise<{value: T} | undefined> {
    this.iterator ??= this.dataset()[Symbol.asyncIterator]();
    const current = this.ahead ?? (await this.iterator.next());
    if (current.done) {
      this.isUsedUp = true;
      return undefined;
    }
    this.ahead = await this.iterator.next();
    if (this.ahead.done) {
      this.isUsedUp = true;
      this.iterator = undefined;
      this.ahead = undefined;
    }
    return {value: current.value};
  }

  async close(): Promise<void> {
    await this.iterator?.return?.();
  }
}
