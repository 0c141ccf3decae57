import type * as tf from '@tensorflow/tfjs';
import {dispatch} from './dispatch.ts';
import {op, type Tensors} from './op.ts';

export interface LionSettings {
  learningRate: number;
  beta1: number;
  beta2: number;
  weightDecay: number;
  /**
   * Whether a backend may write the results over the weight and its state, which the caller then no longer uses.
   * Default false.
   */
  overwrite?: boolean;
}

/** Returns the next value and momentum. */
export const lionUpdateOp = op<
  Tensors<'value' | 'gradient' | 'momentum'> & {factor?: tf.TensorInfo},
  LionSettings,
  [value: tf.Tensor, momentum: tf.Tensor]
>('LionUpdate');

/**
 * One Lion update, Chen et al. 2023, in the order of operations of bitsandbytes' `Lion`:
 * `θ ← θ·(1 − lr·λ)`, then `θ ← θ − lr · sign(β₁·m + (1 − β₁)·g)`, then `m ← β₂·m + (1 − β₂)·g`.
 *
 * @param value the weight, float32; all three tensors have one shape
 * @param gradient its gradient
 * @param momentum running mean of the gradient, m
 * @param factor see `gradientFactor`. Default: 1, on all backends
 * @returns the next value and momentum
 */
export function lionUpdate(
  value: tf.Tensor,
  gradient: tf.Tensor,
  momentum: tf.Tensor,
  settings: LionSettings,
  factor?: tf.Scalar,
): [value: tf.Tensor, momentum: tf.Tensor] {
  const {learningRate, beta1, beta2, weightDecay} = settings;
  return dispatch(lionUpdateOp, {value, gradient, momentum, ...(factor && {factor})}, settings, () => {
    const direction = momentum
      .mul(beta1)
      .add(gradient.mul(1 - beta1))
      .sign();
    const decayed = weightDecay === 0 ? value : value.mul(1 - learningRate * weightDecay);
    const next = momentum.mul(beta2).add(gradient.mul(1 - beta2));
    return [decayed.sub(direction.mul(learningRate)), next];
  });
}
