import type * as tf from '@tensorflow/tfjs';
import {type AdamWSettings, adamWUpdate} from './adamWUpdate.ts';
import {dispatch, hasKernel} from './dispatch.ts';
import {op} from './op.ts';

/**
 * Takes value, gradient, mean and variance of each variable in turn and, where there is one, the factor on gradients;
 * returns the next value, mean and variance of each.
 */
export const adamWUpdatesOp = op<tf.TensorInfo[], AdamWSettings, tf.Tensor[]>('AdamWUpdates');

/** The tensors of one variable that {@link adamWUpdate} takes. */
export interface AdamWTensors {
  value: tf.Tensor;
  gradient: tf.Tensor;
  mean: tf.Tensor;
  variance: tf.Tensor;
}

/** How many variables to update in one call: one on backends that compute each by itself anyway. */
export const adamWUpdatesAtOnce = (): number => (hasKernel(adamWUpdatesOp) ? 256 : 1);

/**
 * Runs {@link adamWUpdate} for several variables with the same settings. A kernel takes as many as it can in one pass.
 *
 * @param factor see `gradientFactor`. Default: 1, on all backends
 * @returns the next value, mean and variance of each
 */
export function adamWUpdates(
  updates: AdamWTensors[],
  settings: AdamWSettings,
  factor?: tf.Scalar,
): [value: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor][] {
  const inputs = updates.flatMap(({value, gradient, mean, variance}) => [value, gradient, mean, variance]);
  if (factor) inputs.push(factor);
  const outputs = dispatch(adamWUpdatesOp, inputs, settings, () =>
    updates.flatMap(({value, gradient, mean, variance}): tf.Tensor[] =>
      adamWUpdate(value, gradient, mean, variance, settings),
    ),
  );
  return updates.map((_, i) => outputs.slice(3 * i, 3 * i + 3) as [tf.Tensor, tf.Tensor, tf.Tensor]);
}
