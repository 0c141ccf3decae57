import type * as tf from '@tensorflow/tfjs';
import {dispatch} from './dispatch.ts';
import {op, type Tensors} from './op.ts';

export interface AdamWSettings {
  learningRate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
  /** The number of this update, from 1, for the bias correction. */
  step: number;
  /**
   * Whether a backend may write the results over the weight and its state, which the caller then no longer uses.
   * Default false.
   */
  overwrite?: boolean;
}

/** Returns the next value, mean and variance. */
export const adamWUpdateOp = op<
  Tensors<'value' | 'gradient' | 'mean' | 'variance'>,
  AdamWSettings,
  [value: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor]
>('AdamWUpdate');

/**
 * One AdamW update, Loshchilov & Hutter 2019, in the order of operations of `torch.optim.AdamW`:
 * `θ ← θ·(1 − lr·λ)`, then `θ ← θ − lr/(1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)`.
 *
 * @param value the weight, float32; all four tensors have one shape
 * @param gradient its gradient
 * @param mean running mean of the gradient, m
 * @param variance running mean of its square, v
 * @returns the next value, mean and variance
 */
export function adamWUpdate(
  value: tf.Tensor,
  gradient: tf.Tensor,
  mean: tf.Tensor,
  variance: tf.Tensor,
  settings: AdamWSettings,
): [value: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor] {
  const {learningRate, beta1, beta2, epsilon, weightDecay, step} = settings;
  return dispatch(adamWUpdateOp, {value, gradient, mean, variance}, settings, () => {
    const nextMean = mean.mul(beta1).add(gradient.mul(1 - beta1));
    const nextVariance = variance.mul(beta2).add(gradient.square().mul(1 - beta2));
    const stepSize = learningRate / (1 - beta1 ** step);
    const denominator = nextVariance
      .sqrt()
      .div(Math.sqrt(1 - beta2 ** step))
      .add(epsilon);
    const decayed = weightDecay === 0 ? value : value.mul(1 - learningRate * weightDecay);
    return [decayed.sub(nextMean.div(denominator).mul(stepSize)), nextMean, nextVariance];
  });
}
