import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../../../quant/errors.ts';
import {keptFor} from '../../keptFor.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/** Rows of a matrix in one or several tensors, each small enough for the device's shaders to bind. */
export interface RowParts {
  /** Tensors of the rows in order; all have `rows` rows but the last, which may have fewer. */
  parts: tf.TensorInfo[];
  rows: number;
}

/** The parts of matrices that one buffer cannot hold, by the matrix. They are freed with it. */
const partsOf = keptFor((_: WebGPUBackend) => new WeakMap<tf.DataId, tf.TensorInfo[]>());

/**
 * Returns a matrix of 4-byte numbers as shaders can bind it: itself, or in parts if it is larger than a binding may be,
 * 128 MiB on some devices. The parts replace the matrix: it has no buffer of its own.
 *
 * @param matrix `[rows, width]`. If it must be split, its values must still be on the host
 */
export function rowPartsOf(backend: WebGPUBackend, matrix: tf.TensorInfo): RowParts {
  const [rows, width] = matrix.shape;
  const most = Math.floor(backend.device.limits.maxStorageBufferBindingSize / (4 * width));
  if (rows <= most) return {parts: [matrix], rows};
  const known = partsOf(backend).get(matrix.dataId);
  if (known) return {parts: known, rows: most};
  const entry = backend.tensorMap.get(matrix.dataId);
  const values = entry.values as tf.TypedArray | null | undefined;
  if (!values || most === 0) return {parts: [matrix], rows}; // its buffer is refused by its size
  const parts: tf.TensorInfo[] = [];
  for (let row = 0; row < rows; row += most) {
    const count = Math.min(most, rows - row);
    const own = values.subarray(row * width, (row + count) * width);
    const part = backend.makeTensorInfo([count, width], matrix.dtype, own);
    backend.uploadToGPU(part.dataId);
    parts.push(part);
  }
  entry.values = null;
  partsOf(backend).set(matrix.dataId, parts);
  return {parts, rows: most};
}

/** Lets a backend read and free matrices that {@link rowPartsOf} has split. */
export function supportRowParts(backend: WebGPUBackend): void {
  const {read, disposeData, uploadToGPU} = backend;
  const parts = partsOf(backend);
  Object.assign(backend, {
    async read(dataId: tf.DataId) {
      const own = parts.get(dataId);
      if (!own) return read.call(backend, dataId);
      const values = (await Promise.all(own.map((part) => backend.read(part.dataId)))) as tf.TypedArray[];
      const all = tf.util.getTypedArrayFromDType(
        own[0].dtype as 'int32',
        values.reduce((sum, {length}) => sum + length, 0),
      );
      let at = 0;
      for (const each of values) {
        all.set(each, at);
        at += each.length;
      }
      return all;
    },
    disposeData(dataId: tf.DataId, force?: boolean) {
      const isFreed = disposeData.call(backend, dataId, force);
      const own = isFreed ? parts.get(dataId) : undefined;
      parts.delete(dataId);
      for (const part of own ?? []) backend.disposeData(part.dataId);
      return isFreed;
    },
    uploadToGPU(dataId: tf.DataId) {
      if (parts.has(dataId)) {
        throw new TfjsLoraError(
          'UNSUPPORTED',
          'webgpu tensor: expected an op that reads a matrix in parts, got one that needs it in one buffer, which the ' +
            "device's limits do not allow. Train adapters on frozen 16-bit or quantized weights, or use another backend.",
        );
      }
      uploadToGPU.call(backend, dataId);
    },
  });
}
