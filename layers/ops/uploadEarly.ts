import type * as tf from '@tensorflow/tfjs';
import {hasKernel, runKernel} from './dispatch.ts';
import {op, type Tensors} from './op.ts';

/** Returns nothing. */
export const uploadEarlyOp = op<Tensors<'tensor'>, Record<never, never>, []>('UploadEarly');

/**
 * Brings tensors to the device now. Otherwise the first op that reads them brings them, and waits for all the work that
 * the device still has. Use it for tensors that a step reads late. Backends without such waits do nothing.
 */
export function uploadEarly(...tensors: tf.Tensor[]): void {
  if (!hasKernel(uploadEarlyOp)) return;
  for (const tensor of tensors) runKernel(uploadEarlyOp, {tensor}, {});
}
