import * as tf from '@tensorflow/tfjs';
import {nearestNames, TfjsLoraError} from '../../quant/errors.ts';
import {AdamW} from './adamW.ts';

const EPSILON = 1e-7; // Keras's

/** Keras's names with Keras's defaults, and ours. */
const optimizers = {
  adamw: () => new AdamW(),
  sgd: () => tf.train.sgd(0.01),
  adam: () => tf.train.adam(0.001, 0.9, 0.999, EPSILON),
  adamax: () => tf.train.adamax(0.002, 0.9, 0.999, EPSILON, 0),
  adagrad: () => tf.train.adagrad(0.01),
  adadelta: () => tf.train.adadelta(1, 0.95, EPSILON),
  rmsprop: () => tf.train.rmsprop(0.001, 0.9, 0, EPSILON),
} satisfies Record<string, () => tf.Optimizer>;

/** What `compile({optimizer})` takes besides a `tf.Optimizer`; upper and lower case are the same. */
export type OptimizerName = keyof typeof optimizers;

/**
 * An optimizer with its default settings.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming the nearest
 */
export function optimizerByName(name: string): tf.Optimizer {
  const key = name.toLowerCase();
  if (Object.hasOwn(optimizers, key)) return optimizers[key as OptimizerName]();
  const known = Object.keys(optimizers);
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `optimizer "${name}": expected a tf.Optimizer or one of ${known.join(', ')}. ` +
      `Did you mean ${nearestNames(key, known, 1)[0]}?`,
  );
}
