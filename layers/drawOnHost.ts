import * as tf from '@tensorflow/tfjs';
import {backendTraits} from './ops/backendTraits.ts';

/**
 * Returns the values of a tensor that `draw` makes without inputs, such as an initializer's. On a backend that reads
 * only asynchronously, the `cpu` backend makes the tensor instead.
 */
export function drawOnHost(draw: () => tf.Tensor): Float32Array {
  const current = tf.getBackend();
  const isLate = !backendTraits().readsAtOnce;
  if (isLate) use('cpu');
  try {
    return tf.tidy(() => draw().dataSync() as Float32Array);
  } finally {
    if (isLate) use(current);
  }
}

/**
 * Makes a backend current synchronously: `tf.setBackend` waits only for a backend that was never made, and this makes
 * it.
 */
function use(backend: string): void {
  tf.findBackend(backend);
  void tf.setBackend(backend);
}
