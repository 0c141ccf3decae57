import * as tf from '@tensorflow/tfjs';

/**
 * Runs an op: the kernel of that name when the active backend has one registered, else the composed
 * reference. A kernel that must be differentiated has a gradient registered under the same name.
 *
 * @param kernelName as given to `tf.registerKernel`
 * @param inputs the tensors the kernel reads, by name
 * @param attributes plain values the kernel reads
 * @param composed the same result in plain TensorFlow.js ops; runs and differentiates on every backend
 */
export function dispatch<T extends tf.Tensor | tf.Tensor[]>(
  kernelName: string,
  inputs: tf.NamedTensorMap,
  attributes: tf.NamedAttrMap,
  composed: () => T,
): T {
  if (tf.getKernel(kernelName, tf.getBackend()) == null) return tf.tidy(composed);
  return tf.engine().runKernel(kernelName, inputs, attributes) as tf.Tensor | tf.Tensor[] as T;
}
