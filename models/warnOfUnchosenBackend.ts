import * as tf from '@tensorflow/tfjs';
import {hideCpuBanner} from '../layers/hideCpuBanner.ts';
import {warn} from '../quant/warn.ts';

/**
 * Warns if no backend was chosen and TensorFlow.js takes `cpu`, which is many times slower than `wasm`. This makes the
 * choice, so the warning comes once.
 */
export async function warnOfUnchosenBackend(): Promise<void> {
  if (tf.getBackend()) return;
  await tf.ready(); // TensorFlow.js's own choice
  if (tf.getBackend() !== 'cpu') return;
  hideCpuBanner();
  warn(
    'backend: expected a choice before a model is loaded, got none, so TensorFlow.js takes cpu, its slowest. ' +
      "Call await useBackend('auto') first for the fastest that works here; useBackend('cpu') keeps cpu.",
  );
}
