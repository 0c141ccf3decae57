import * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from './webgpuBackend.ts';

/**
 * Copies float32 numbers between a buffer and tensors, whose numbers follow each other in it.
 *
 * @param direction whether the tensors are copied into the buffer, or the buffer into the tensors
 */
export function copyParts(
  backend: WebGPUBackend,
  whole: GPUBuffer,
  parts: tf.TensorInfo[],
  direction: 'pack' | 'unpack',
): void {
  const buffers = parts.map((part) => bufferOf(backend, part)); // before the encoder is taken: an upload may use it
  backend.ensureCommandEncoderReady();
  backend.endComputePassEncoder();
  const encoder = backend.commandEncoder as GPUCommandEncoder;
  let begin = 0;
  for (const [i, {shape}] of parts.entries()) {
    const bytes = 4 * tf.util.sizeFromShape(shape);
    if (direction === 'pack') encoder.copyBufferToBuffer(buffers[i], 0, whole, begin, bytes);
    else encoder.copyBufferToBuffer(whole, begin, buffers[i], 0, bytes);
    begin += bytes;
  }
}

/** Returns a tensor's buffer, which is made, and gets the values, if it is not there yet. */
export function bufferOf(backend: WebGPUBackend, {dataId}: tf.TensorInfo): GPUBuffer {
  backend.uploadToGPU(dataId);
  return backend.tensorMap.get(dataId).resource as GPUBuffer;
}
