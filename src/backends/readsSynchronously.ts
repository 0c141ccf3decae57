import * as tf from '@tensorflow/tfjs';

/** Whether `dataSync` works on the current backend, without waiting for a device that answers only later. */
export function readsSynchronously(): boolean {
  return tf.getBackend() !== 'webgpu';
}
