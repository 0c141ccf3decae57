import {backendTraits} from './backendTraits.ts';

/**
 * Waits until all gradients are computed. Backward returns before that if it must wait for the host, which keeps the
 * inputs of blocks with `gradientCheckpointing: 'offload'` on webgpu. Call it before ops use the gradients; reading them
 * waits by itself.
 */
export async function settleGradients(): Promise<void> {
  await backendTraits().settle?.();
}
