import * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from './webgpuBackend.ts';

/**
 * Copies float32 numbers between a tensor and its parts, which follow each other in it.
 *
 * @param direction whether the parts are copied into the whole, or the whole into its parts
 */
export function copyParts(
  backend: WebGPUBackend,
  whole: tf.TensorInfo,
  parts: tf.TensorInfo[],
  direction: 'pack' | 'unpack',
): void {
  const bufferOf = ({dataId}: tf.TensorInfo) => {
    backend.uploadToGPU(dataId);
    return backend.tensorMap.get(dataId).resource as GPUBuffer;
  };
  const flat = bufferOf(whole);
  const buffers = parts.map(bufferOf); // before the encoder is taken: an upload may use it
  backend.ensureCommandEncoderReady();
  backend.endComputePassEncoder();
  const encoder = backend.commandEncoder as GPUCommandEncoder;
  let begin = 0;
  for (const [i, {shape}] of parts.entries()) {
    const bytes = 4 * tf.util.sizeFromShape(shape);
    if (direction === 'pack') encoder.copyBufferToBuffer(buffers[i], 0, flat, begin, bytes);
    else encoder.copyBufferToBuffer(flat, begin, buffers[i], 0, bytes);
    begin += bytes;
  }
}
