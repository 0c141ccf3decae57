import * as tf from '@tensorflow/tfjs';

/** Whether what is computed now may be differentiated. */
export function isRecording(): boolean {
  const {gradientDepth, kernelDepth} = tf.engine().state as {gradientDepth: number; kernelDepth: number};
  return gradientDepth > 0 && kernelDepth === 0;
}
