import * as tf from '@tensorflow/tfjs';
import {backendTraits} from './ops/backendTraits.ts';

/**
 * The values of a tensor that `draw` makes of nothing, such as an initializer's, read at once. Where the backend answers
 * only later, it is made by the `cpu` backend instead.
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

/** Makes a backend current at once: `tf.setBackend` waits only for one that was never made, and this makes it. */
function use(backend: string): void {
  tf.findBackend(backend);
  void tf.setBackend(backend);
}
