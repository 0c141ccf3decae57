import type * as tf from '@tensorflow/tfjs';
import {unpackFlatOp} from '../../../ops/unpackFlat.ts';
import {keptFor} from '../../keptFor.ts';
import {kernel} from '../../kernel.ts';
import {bufferOf, copyParts} from '../device/copyParts.ts';
import {submitRecorded, type WebGPUBackend} from '../device/webgpuBackend.ts';

/** `UnpackFlat` (layers/ops/unpackFlat.ts): a copy for each tensor. */
export const unpackFlat = kernel(unpackFlatOp, 'webgpu', ({inputs: {flat}, attrs: {shapes}, backend}) => {
  const parts = shapes.map((shape) => backend.makeTensorInfo(shape, 'float32'));
  const {resource, values} = backend.tensorMap.get(flat.dataId);
  if (!resource && values) uploadParts(backend, values as Float32Array, parts);
  else copyParts(backend, bufferOf(backend, flat), parts, 'unpack');
  return parts;
});

/** The buffer for values on their way to a device. */
const stagingOf = keptFor((_: GPUDevice): {buffer?: GPUBuffer} => ({}));

/**
 * Uploads values to tensors through a buffer that is kept and mapped again for the next time, because making one of the
 * size of all gradients takes longer than filling it.
 */
function uploadParts(backend: WebGPUBackend, values: Float32Array, parts: tf.TensorInfo[]): void {
  const {device} = backend;
  const kept = stagingOf(device);
  const size = 4 * values.length;
  if (kept.buffer?.size !== size || kept.buffer.mapState !== 'mapped') {
    kept.buffer?.destroy();
    const usage = GPUBufferUsage.MAP_WRITE | GPUBufferUsage.COPY_SRC;
    kept.buffer = device.createBuffer({size, usage, mappedAtCreation: true});
  }
  const {buffer} = kept;
  new Float32Array(buffer.getMappedRange()).set(values);
  buffer.unmap();
  copyParts(backend, buffer, parts, 'unpack');
  submitRecorded(backend);
  void buffer.mapAsync(GPUMapMode.WRITE).catch(() => {
    if (kept.buffer === buffer) kept.buffer = undefined;
  });
}
