import type * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';

/** Keras's methods of training that throw at once, and those that return a promise. */
const SYNCHRONOUS = ['compile', 'evaluate'] as const;
const ASYNCHRONOUS = ['fit', 'fitDataset', 'trainOnBatch', 'evaluateDataset'] as const;

/**
 * Replaces Keras's methods of training by ones that refuse with `UNSUPPORTED` and say what to do: a model of this floor
 * does not train, and Keras's own do not fit token ids. `trainable`, on the top floor, replaces them again.
 */
export function refuseTraining(prototype: tf.LayersModel): void {
  const define = (call: string, value: unknown) =>
    Object.defineProperty(prototype, call, {value, writable: true, configurable: true});
  for (const call of SYNCHRONOUS)
    define(call, function (this: tf.LayersModel) {
      throw untrainable(call, this);
    });
  for (const call of ASYNCHRONOUS)
    define(call, async function (this: tf.LayersModel) {
      throw untrainable(call, this);
    });
}

function untrainable(call: string, {constructor: {name}}: tf.LayersModel): TfjsLoraError {
  return new TfjsLoraError(
    'UNSUPPORTED',
    `${call}: expected a model class with training, got ${name}, which has none. ` +
      `Give it training: import {trainable} from 'tfjs-lora', and use trainable(${name}) in its place.`,
  );
}
