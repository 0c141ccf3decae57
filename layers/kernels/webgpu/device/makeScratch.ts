import * as tf from '@tensorflow/tfjs';
import type {RowsView} from './rowsView.ts';
import type {WebGPUBackend} from './webgpuBackend.ts';

/** A tensor that only our shaders use. */
export type Scratch = RowsView & {firstByte: number};

/**
 * Makes a tensor for results between shaders. Its buffer may be larger than it, so that results of different sizes share
 * buffers; TensorFlow.js's own kernels and reads, which take the buffer's size for the tensor's, must not get it.
 *
 * @param isKept whether it is kept for long, so that its buffer must not be larger than it. Default false
 */
export function makeScratch(
  backend: WebGPUBackend,
  shape: number[],
  dtype: 'float32' | 'int32' = 'float32',
  isKept = false,
): Scratch {
  const {dataId} = backend.makeTensorInfo(shape, dtype);
  if (isKept) return {dataId, shape, dtype, firstByte: 0};
  const size = 4 * tf.util.sizeFromShape(shape);
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST; // as the backend's own
  backend.tensorMap.get(dataId).resource = backend.bufferManager.acquireAtLeast(size, usage);
  return {dataId, shape, dtype, firstByte: 0};
}
