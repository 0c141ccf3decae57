import * as tf from '@tensorflow/tfjs';

/**
 * Keeps TensorFlow.js's `cpu` backend from printing its advertisement for tfjs-node in Node, which `npx tfjs-lora setup
 * tensorflow` replaces.
 */
export function hideCpuBanner(): void {
  (tf.findBackend('cpu') as unknown as {firstUse?: boolean}).firstUse = false;
}
