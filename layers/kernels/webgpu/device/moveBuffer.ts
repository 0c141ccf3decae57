import type * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from './webgpuBackend.ts';

/** Gives a tensor's buffer to another one, which has none. The first must not be used any more, only disposed. */
export function moveBuffer({tensorMap}: WebGPUBackend, from: tf.TensorInfo, to: tf.TensorInfo): void {
  const given = tensorMap.get(from.dataId);
  tensorMap.get(to.dataId).resource = given.resource;
  given.resource = null;
}
