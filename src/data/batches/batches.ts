import * as tf from '@tensorflow/tfjs';
import seedrandom from 'seedrandom';
import type {Batch} from '../../../models/batchLoss.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import {
  type AnyExample,
  assertExample,
  type CollateOptions,
  collate,
  type Example,
  type ExampleKind,
  type ExampleLimits,
  isPair,
  isVerdict,
} from './collate.ts';
import {fileAdvice} from './fileAdvice.ts';

/**
 * Data to read: by default examples, which are padded into batches, or complete batches. For more than one epoch, pass
 * a list, an object that starts from the beginning when it is iterated again, or a function that makes a generator; a
 * generator itself serves only one epoch. A function is called with the epoch's number, and may order its items by it.
 * Tensors from a `tf.data.Dataset` are read and disposed; tensors in a list or iterable remain the caller's.
 */
export type TrainingData<T = Item> = Items<T> | ((epoch: number) => Items<T>) | DatasetLike;

/** An item of training data: an example of token ids, a pair of them, an answer with a verdict, or a batch. */
export type Item = AnyExample | Batch;

type Items<T> = Iterable<T> | AsyncIterable<T>;

/** A `tf.data.Dataset`. */
interface DatasetLike {
  iterator(): Promise<{next(): Promise<IteratorResult<unknown, unknown>>}>;
}

export interface BatchOptions extends CollateOptions {
  /** Examples in a batch; ready-made batches stay unchanged. */
  batchSize: number;
  /** Seed for shuffling a list. Default: not shuffled. */
  shuffleSeed?: string;
  /** Epoch passed to a function that makes the data. Default 0. */
  epoch?: number;
  /** Size of the vocabulary, to check ids against. Default: no check. */
  vocabSize?: number;
  /** The kind that each example must have. Default: any. */
  exampleKind?: ExampleKind;
  /** Makes a batch of examples. Default: {@link collate}. */
  join?: (examples: AnyExample[], options: CollateOptions) => Batch;
}

export const isBatch = (item: Item): item is Batch => {
  const inputIds: unknown = isPair(item) || isVerdict(item) ? undefined : item?.inputIds;
  return inputIds instanceof tf.Tensor
    ? inputIds.rank === 2
    : Array.isArray((inputIds as number[][] | undefined)?.[0]);
};

const isTensorExample = (item: AnyExample): boolean =>
  ((item as Example | undefined)?.inputIds as unknown) instanceof tf.Tensor;

/** Whether data can be read only once: an existing generator. */
export const isReadOnce = (data: TrainingData<unknown>): boolean =>
  typeof data === 'object' && data !== null && 'next' in data;

/** Returns the number of batches if it is known beforehand. */
export function countBatches(data: TrainingData, batchSize: number): number | undefined {
  if (!Array.isArray(data)) return undefined;
  const ready = data.filter(isBatch).length;
  return ready + Math.ceil((data.length - ready) / batchSize);
}

/**
 * Checks data before work begins, as far as that is possible without reading it.
 *
 * @param times how often the data will be read, at most
 * @throws TfjsLoraError `INVALID_ARGUMENT`, and what {@link assertExample} throws
 */
export function assertData(data: TrainingData, what: string, limits: ExampleLimits, times = 1): void {
  assertReadable(data, what);
  if (Array.isArray(data)) {
    if (data.length === 0) throw emptyData(what);
    for (const [index, item] of data.entries())
      if (!isBatch(item) && !isTensorExample(item)) assertExample(item, index, limits);
  } else if (times > 1 && isReadOnce(data)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${what}: expected data that can be read more than once, got a generator, which cannot. ` +
        'Pass a list, or the function that returns the generator.',
    );
  }
}

/**
 * Checks that data can be iterated.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT`
 */
export function assertReadable(data: TrainingData<unknown>, what: string): void {
  if (typeof data === 'function') return;
  const isReadable =
    typeof data === 'object' &&
    data !== null &&
    (Symbol.iterator in data || Symbol.asyncIterator in data || 'iterator' in data);
  if (isReadable) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${what}: expected a list of examples, batches or records, an iterable, a function that returns one, or a ` +
      `tf.data.Dataset, got ${show(data)}.${fileAdvice(data) || adviceForData(data)}`,
  );
}

export function emptyData(what: string): TfjsLoraError {
  return new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${what}: expected at least one example, got an empty dataset`,
  );
}

/**
 * Yields data as batches of rows, in order, or shuffled if it is a list and there is a seed.
 *
 * @param read makes an example of an item at an index. Default: items are examples or batches already
 */
export async function* batchesOf(
  data: TrainingData,
  options: BatchOptions,
  read = (item: Item, _index: number): Item => item,
): AsyncGenerator<Batch> {
  const {batchSize, shuffleSeed, epoch = 0, padTokenId, padToMultipleOf, maxLength, join = collate} = options;
  const padding = {padTokenId, padToMultipleOf, maxLength};
  const source = Array.isArray(data) && shuffleSeed !== undefined ? shuffled(data, shuffleSeed) : data;
  let waiting: AnyExample[] = [];
  let [position, index] = [0, 0];
  for await (const given of itemsOf(source, epoch)) {
    const item = await toRows(read(given, position++));
    if (isBatch(item)) {
      yield item;
      continue;
    }
    assertExample(item, index++, options);
    waiting.push(item);
    if (waiting.length < batchSize) continue;
    yield join(waiting, padding);
    waiting = [];
  }
  if (waiting.length > 0) yield join(waiting, padding);
}

/** Returns the batch or example with its tensors read. */
export async function toRows<T>(item: T): Promise<T> {
  if (!Object.values(item ?? {}).some((value) => value instanceof tf.Tensor)) return item;
  const read = async (value: unknown) => (value instanceof tf.Tensor ? await value.array() : value);
  const entries = Object.entries(item as object).map(async ([key, value]) => [key, await read(value)]);
  return Object.fromEntries(await Promise.all(entries)) as T;
}

/** Yields the items of data of any form, one at a time; those of a `tf.data.Dataset` with their tensors read. */
export async function* itemsOf<T>(data: TrainingData<T>, epoch: number): AsyncGenerator<T> {
  if (typeof data === 'function' || !('iterator' in data)) {
    yield* (typeof data === 'function' ? data(epoch) : data) as AsyncIterable<T>;
    return;
  }
  const iterator = await data.iterator();
  for (let item = await iterator.next(); !item.done; item = await iterator.next()) {
    const read = await toRows(item.value as T);
    tf.dispose(item.value as tf.TensorContainer);
    yield read;
  }
}

/** Returns a copy of a list in an order that depends only on the seed (Fisher–Yates). */
export function shuffled<T>(items: readonly T[], seed: string): T[] {
  const random = seedrandom(seed);
  const result = [...items];
  for (let i = result.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [result[i], result[j]] = [result[j], result[i]];
  }
  return result;
}

function adviceForData(data: unknown): string {
  if (typeof data === 'number') return ' Take a part out of examples with splitValidation(examples, 0.1).';
  return data ? ' Put a single one into a list.' : '';
}
