import type * as tf from '@tensorflow/tfjs';

/**
 * Scales gradients down so that their global norm is at most `maxNorm`, as `torch.nn.utils.clip_grad_norm_` does:
 * factor `min(1, maxNorm / (norm + 1e-6))`. The host must know the norm. `NamedStateOptimizer.prepareStep` clips
 * by the same factor on the device, before the host has read the norm.
 *
 * @param norm the gradients' global norm
 * @param maxNorm maximum norm, above 0
 * @returns new tensors, which the caller disposes, or the same map when nothing has to be scaled
 */
export function clipByGlobalNorm<T extends tf.NamedTensorMap>(
  gradients: T,
  norm: number,
  maxNorm: number,
): T {
  const factor = maxNorm / (norm + 1e-6);
  if (factor >= 1) return gradients;
  return Object.fromEntries(
    Object.entries(gradients).map(([name, gradient]) => [name, gradient.mul(factor)]),
  ) as T;
}
