import * as tf from '@tensorflow/tfjs';
import {hasKernel} from './dispatch.ts';

/**
 * Brings tensors to the device now, where they would be brought by the op that first reads them, which then waits for all the
 * work that the device still has: for what a step reads late. Backends without such waits do nothing.
 */
export function uploadEarly(...tensors: tf.Tensor[]): void {
  if (!hasKernel('UploadEarly')) return;
  for (const tensor of tensors) tf.engine().runKernel('UploadEarly', {tensor});
}
