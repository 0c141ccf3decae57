import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import {show} from '../quant/show.ts';
import type {Batch} from './batch.ts';

const KEYS = {
  inputIds: true,
  labels: true,
  attentionMask: true,
  positionIds: true,
  desirable: true,
} satisfies OptionNames<Batch>;

const LETTERS = new Set(Object.keys(KEYS).map((key) => key.toLowerCase()));

const EXPECTED = 'expected a batch {inputIds, labels} of rows or tensors [B, T]';

/**
 * Checks that a call got a batch, before its numbers are read.
 *
 * @param call name of the function that was called, for messages
 * @param others further arguments, such as Keras's `y`, which must be absent
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming what was passed instead, or the key that a batch does not have
 */
export function assertBatch(call: string, given: unknown, others: readonly unknown[] = []): void {
  const isObject = typeof given === 'object' && given !== null;
  if (given instanceof tf.Tensor || Array.isArray(given) || !isObject || others[0] !== undefined) {
    throw mistake(
      call,
      others[0] === undefined ? describe(given) : 'x and y',
      `Pass the labels in the batch, not shifted: ${call}({inputIds: x, labels: x}).`,
    );
  }
  const {inputIds} = given as {inputIds?: unknown};
  if (Array.isArray(inputIds) && typeof inputIds[0] === 'number')
    throw mistake(call, 'one example', `Put examples into rows: ${call}(collate([example])).`);
  const keys = Object.keys(given);
  if (!keys.some((key) => LETTERS.has(key.replaceAll('_', '').toLowerCase()))) {
    const advice = 'Pass records of text to fitDataset, or collate((await model.dataset(records)).examples).';
    throw mistake(call, `the keys ${show(keys)}`, advice);
  }
  assertKnownOptions(`${call} batch`, given, KEYS);
  for (const key of ['inputIds', 'labels'] as const) {
    const value = (given as Partial<Batch>)[key];
    const isLater = key === 'labels' && value === undefined; // the shapes, compared later, name it
    if (isLater || value instanceof tf.Tensor || Array.isArray(value)) continue;
    throw mistake(`${call} ${key}`, describe(value), `Its keys are ${show(keys)}.`);
  }
}

function mistake(call: string, got: string, advice: string): TfjsLoraError {
  return new TfjsLoraError('INVALID_ARGUMENT', `${call}: ${EXPECTED}, got ${got}. ${advice}`);
}

function describe(value: unknown): string {
  return value instanceof tf.Tensor ? `a tensor [${value.shape}]` : show(value);
}
