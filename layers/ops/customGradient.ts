import * as tf from '@tensorflow/tfjs';
import {isRecording} from './isRecording.ts';

/**
 * Runs a function with its own gradient: `tf.customGrad` with plain types, and with backward in a `tidy`, so that its
 * intermediates are freed immediately instead of living until the whole backward pass ends.
 *
 * @param inputs the tensors that get a gradient
 * @param forward the value, from `inputs` and anything else it closes over, and as `saved` the tensors that backward
 *   needs
 * @param backward one gradient per input, in order
 */
export function customGradient<T extends tf.Tensor>(
  inputs: tf.Tensor[],
  forward: () => {value: T; saved?: tf.Tensor[]},
  backward: (dy: T, saved: tf.Tensor[]) => tf.Tensor[],
): T {
  if (!isRecording()) return tf.tidy(() => forward().value); // no gradient is needed: half the host's work
  const op = tf.customGrad((...args) => {
    const save = args.pop() as tf.GradSaveFunc;
    const {value, saved = []} = forward();
    save(saved);
    return {value, gradFunc: (dy, kept) => tf.tidy(() => backward(dy as T, kept))};
  });
  return op(...inputs) as T;
}
