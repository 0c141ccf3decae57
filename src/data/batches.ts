import * as tf from '@tensorflow/tfjs';
import seedrandom from 'seedrandom';
import {type Batch, IGNORE_INDEX} from '../../models/batchLoss.ts';
import {TfjsLoraError} from '../../quant/errors.ts';

/** One training example, as token ids. */
export interface Example {
  inputIds: number[];
  /** Same length; −100 does not count. Default `inputIds`: every token is a target. */
  labels?: number[];
  /** Same length. Default all 1. */
  attentionMask?: number[];
}

/** What training reads: examples, which are padded into batches, or batches ready-made. */
export type TrainingData =
  | Iterable<Example | Batch>
  | AsyncIterable<Example | Batch>
  | {iterator(): Promise<{next(): Promise<IteratorResult<Example | Batch>>}>}; // tf.data.Dataset

export interface CollateOptions {
  /** Default 0; padded places are masked and do not count. */
  padTokenId?: number;
  /** Row length is rounded up to a multiple of this. Default 8. */
  padToMultipleOf?: number;
  /** Checked against it. Default none. */
  maxLength?: number;
}

export interface BatchOptions extends CollateOptions {
  /** Examples in a batch; ready-made batches pass unchanged. */
  batchSize: number;
  /** Shuffles a list of examples, seeded. Default: as they come. */
  shuffleSeed?: string;
}

/** Pads examples on the right into one batch, labels with −100 and the mask with 0. */
export function collate(examples: Example[], options: CollateOptions = {}): Batch {
  const {padTokenId = 0, padToMultipleOf = 8, maxLength} = options;
  const longest = Math.max(...examples.map(({inputIds}) => inputIds.length));
  const length = Math.ceil(longest / padToMultipleOf) * padToMultipleOf;
  const width = maxLength === undefined ? length : Math.max(longest, Math.min(length, maxLength));
  const pad = (values: number[], by: number) => [...values, ...new Array<number>(width - values.length).fill(by)];
  return {
    inputIds: examples.map(({inputIds}) => pad(inputIds, padTokenId)),
    labels: examples.map(({inputIds, labels = inputIds}) => pad(labels, IGNORE_INDEX)),
    attentionMask: examples.map(({inputIds, attentionMask}) => pad(attentionMask ?? inputIds.map(() => 1), 0)),
  };
}

/**
 * Checks one example.
 *
 * @throws TfjsLoraError naming the example
 */
export function assertExample(example: Example, index: number, maxLength?: number): void {
  const {inputIds, labels, attentionMask} = example;
  if (!Array.isArray(inputIds) || inputIds.length === 0) {
    throw new TfjsLoraError('INVALID_ARGUMENT', `example ${index} inputIds: expected token ids, got ${inputIds && 'an empty list'}`);
  }
  for (const [key, values] of Object.entries({labels, attentionMask})) {
    if (values === undefined || values.length === inputIds.length) continue;
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `example ${index} ${key}: expected ${inputIds.length} values (one a token), got ${values.length}`,
    );
  }
  if (maxLength !== undefined && inputIds.length > maxLength) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `example ${index}: expected at most ${maxLength} tokens (max_position_embeddings), got ${inputIds.length}. Truncate it.`,
    );
  }
  if (labels && !labels.some((label, t) => t > 0 && label !== IGNORE_INDEX)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `example ${index} labels: expected at least one that counts, got only ${IGNORE_INDEX}`,
    );
  }
}

export const isBatch = (item: Example | Batch): item is Batch =>
  item.inputIds instanceof tf.Tensor || Array.isArray(item.inputIds[0]);

/** Number of batches, where it can be known beforehand. */
export function countBatches(data: TrainingData, batchSize: number): number | undefined {
  if (!Array.isArray(data)) return undefined;
  const ready = data.filter(isBatch).length;
  return ready + Math.ceil((data.length - ready) / batchSize);
}

/** Batches of some data, in order, or shuffled when it is a list. */
export async function* batchesOf(data: TrainingData, options: BatchOptions): AsyncGenerator<Batch> {
  const {batchSize, shuffleSeed, maxLength} = options;
  const source = Array.isArray(data) && shuffleSeed !== undefined ? shuffled(data, shuffleSeed) : data;
  let waiting: Example[] = [];
  let index = 0;
  for await (const item of toIterable(source)) {
    if (isBatch(item)) {
      yield item;
      continue;
    }
    assertExample(item, index++, maxLength);
    waiting.push(item);
    if (waiting.length < batchSize) continue;
    yield collate(waiting, options);
    waiting = [];
  }
  if (waiting.length > 0) yield collate(waiting, options);
}

/** A new list in an order that depends on the seed alone (Fisher–Yates). */
export function shuffled<T>(items: readonly T[], seed: string): T[] {
  const random = seedrandom(seed);
  const result = [...items];
  for (let i = result.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [result[i], result[j]] = [result[j], result[i]];
  }
  return result;
}

async function* toIterable(data: TrainingData): AsyncGenerator<Example | Batch> {
  if (Symbol.iterator in data || Symbol.asyncIterator in data) {
    yield* data as AsyncIterable<Example | Batch>;
    return;
  }
  const iterator = await data.iterator();
  for (let item = await iterator.next(); !item.done; item = await iterator.next()) yield item.value;
}
