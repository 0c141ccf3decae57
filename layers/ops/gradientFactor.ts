import type * as tf from '@tensorflow/tfjs';
import {hasKernel, runKernel} from './dispatch.ts';
import {op, type Tensors} from './op.ts';

/** Takes a step's numbers, float32 `[n]`, and returns the factor on its gradients, a scalar. */
export const gradientFactorOp = op<Tensors<'numbers'>, {maxNorm?: number}, tf.Scalar>('GradientFactor');

/** Whether the active backend can compute {@link gradientFactor}; its updates that overwrite their inputs then take it. */
export const takesGradientFactor = (): boolean => hasKernel(gradientFactorOp);

/**
 * Computes, before the host has read a step's numbers, by which factor an update multiplies the gradients.
 *
 * Only backends with {@link takesGradientFactor} have it.
 *
 * @param numbers float32 `[n]`: the gradients' global norm, then all other numbers of the step that must be finite
 * @param maxNorm maximum norm, above 0. Default: no clipping
 * @returns scalar: −1 if any of the numbers is not finite, for which an update changes nothing; otherwise
 *   `min(1, maxNorm / (norm + 1e-6))` or, without clipping, 1
 */
export function gradientFactor(numbers: tf.Tensor1D, maxNorm?: number): tf.Scalar {
  return runKernel(gradientFactorOp, {numbers}, {maxNorm});
}
