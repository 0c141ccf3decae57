import * as tf from '@tensorflow/tfjs';
import {asynchronousBackends} from '../../../layers/ops/dispatch.ts';

/** Whether `dataSync` works on the current backend, without waiting for a device that answers only later. */
export function readsSynchronously(): boolean {
  return tf.getBackend() !== 'webgpu' && !asynchronousBackends.has(tf.backend());
}
