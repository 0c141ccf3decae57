import type * as tf from '@tensorflow/tfjs';
import {hasKernel, runKernel} from './dispatch.ts';
import {op, type Tensors} from './op.ts';

/** Gives nothing. */
export const uploadEarlyOp = op<Tensors<'tensor'>, Record<never, never>, []>('UploadEarly');

/**
 * Brings tensors to the device now, where they would be brought by the op that first reads them, which then waits for all the
 * work that the device still has: for what a step reads late. Backends without such waits do nothing.
 */
export function uploadEarly(...tensors: tf.Tensor[]): void {
  if (!hasKernel(uploadEarlyOp)) return;
  for (const tensor of tensors) runKernel(uploadEarlyOp, {tensor}, {});
}
