import type * as tf from '@tensorflow/tfjs';
import {submitRecorded, type WebGPUBackend} from './webgpuBackend.ts';

/** Writes values into a tensor's buffer, if it has one that no other tensor shares. Returns whether it did. */
export function overwrite(backend: WebGPUBackend, {dataId}: tf.TensorInfo, values: tf.TypedArray): boolean {
  const {resource, values: onHost} = backend.tensorMap.get(dataId);
  if (!resource || onHost || backend.refCount(dataId) !== 1) return false;
  submitRecorded(backend); // earlier commands must read the old values
  backend.queue.writeBuffer(resource, 0, values as BufferSource);
  return true;
}
