import * as tf from '@tensorflow/tfjs';
import {customGradient} from './customGradient.ts';
import {isRecording} from './isRecording.ts';
import {keptResults} from './keptResults.ts';

/** Backends whose values cannot be read synchronously: what would be checked at once is checked when it is read. */
export const asynchronousBackends = new WeakSet<object>();

/** Whether the active backend has a kernel of that name. */
export function hasKernel(kernelName: string): boolean {
  return tf.getKernel(kernelName, tf.getBackend()) != null;
}

/**
 * Runs an op: the kernel of that name when the active backend has one registered, else the composed
 * reference. A kernel that must be differentiated goes through `dispatchWithGradient`.
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
  if (!hasKernel(kernelName)) return tf.tidy(composed);
  return tf.engine().runKernel(kernelName, inputs, attributes) as tf.Tensor | tf.Tensor[] as T;
}

/**
 * {@link dispatch} for an op that is differentiated: by the kernel `<kernelName>Grad`, when the active backend has both,
 * else through the composed reference.
 *
 * The forward kernel gives the value, and after it whatever else backward needs. The gradient kernel gets `dy`, the
 * inputs, the value as `y` and the rest as `extra0`, `extra1` …, and gives the gradients of `differentiated`, in order.
 *
 * @param differentiated names of the inputs that get a gradient
 * @param options `read`: what the gradient kernel reads of the inputs and `y`, default all; the rest does not stay in memory
 *   until backward. `isKept`: the outputs are kept where a checkpointed block is run again, default false
 */
export function dispatchWithGradient<T extends tf.Tensor>(
  kernelName: string,
  inputs: tf.NamedTensorMap,
  attributes: tf.NamedAttrMap,
  differentiated: string[],
  composed: () => T,
  {read = [...Object.keys(inputs), 'y'], isKept = false}: {read?: string[]; isKept?: boolean} = {},
): T {
  if (!hasKernel(kernelName)) return tf.tidy(composed);
  const gradientName = `${kernelName}Grad`;
  if (isRecording() && !hasKernel(gradientName)) return tf.tidy(composed);
  const run = (name: string, tensors: tf.NamedTensorMap) =>
    [tf.engine().runKernel(name, tensors, attributes)].flat() as tf.Tensor[];
  return customGradient(
    differentiated.map((name) => inputs[name]),
    () => {
      const make = () => run(kernelName, inputs);
      const outputs = isKept && hasKernel(gradientName) ? keptResults(make) : make(); // else backward is composed
      const [y, ...extras] = outputs;
      const named: tf.NamedTensorMap = {...inputs, y};
      return {value: y as T, saved: [...read.map((name) => named[name] as tf.Tensor), ...extras]};
    },
    (dy, saved) => {
      const named = saved.map((tensor, i) => [read[i] ?? `extra${i - read.length}`, tensor]);
      return run(gradientName, {dy, ...Object.fromEntries(named)});
    },
  );
}
