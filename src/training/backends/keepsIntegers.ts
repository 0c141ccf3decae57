import * as tf from '@tensorflow/tfjs';

/** Whether plain ops keep all 32 bits of an integer on the current backend: the graphics cards' compute in float32. */
export function keepsIntegers(): boolean {
  return !['webgpu', 'webgl'].includes(tf.getBackend());
}
