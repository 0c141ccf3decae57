import type * as tf from '@tensorflow/tfjs';
import {unpackFlatOp} from '../../../ops/unpackFlat.ts';
import {kernel} from '../../kernel.ts';
import {copyParts} from '../device/copyParts.ts';
import {submitRecorded, type WebGPUBackend} from '../device/webgpuBackend.ts';

/** `UnpackFlat` (layers/ops/unpackFlat.ts): a copy for each tensor. */
export const unpackFlat = kernel(unpackFlatOp, 'webgpu', ({inputs: {flat}, attrs: {shapes}, backend}) => {
  writeValues(backend, flat);
  const parts = shapes.map((shape) => backend.makeTensorInfo(shape, 'float32'));
  copyParts(backend, flat, parts, 'unpack');
  return parts;
});

/** Uploads values through the queue, without the new, zeroed buffer through which the stock backend uploads them. */
function writeValues(backend: WebGPUBackend, {dataId}: tf.TensorInfo): void {
  const entry = backend.tensorMap.get(dataId);
  const {resource, values} = entry;
  if (resource || !values) return;
  entry.values = null;
  backend.uploadToGPU(dataId);
  submitRecorded(backend); // what was recorded before may still use the buffer
  backend.queue.writeBuffer(entry.resource as unknown as GPUBuffer, 0, values as Float32Array<ArrayBuffer>);
}
