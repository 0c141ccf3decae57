import * as tf from '@tensorflow/tfjs';
import {keptFor} from '../../keptFor.ts';
import {attach} from '../device/attachments.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/** Rows of a matrix in one or several tensors, each small enough for the device's shaders to bind. */
export interface RowParts {
  /** Tensors of the rows in order; all have `rows` rows but the last, which may have fewer. */
  parts: tf.TensorInfo[];
  rows: number;
}

/** The parts of matrices that one buffer cannot hold, by the matrix. They are freed with it. */
const partsOf = keptFor((_: WebGPUBackend) => new WeakMap<tf.DataId, tf.TensorInfo[]>());

const REFUSAL =
  'webgpu tensor: expected an op that reads a matrix in parts, got one that needs it in one buffer, which the ' +
  "device's limits do not allow. Train adapters on frozen 16-bit or quantized weights, or use another backend.";

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
  attach(backend, matrix, {
    refusal: REFUSAL,
    read: () => valuesOf(backend, parts),
    free() {
      for (const part of parts) backend.disposeData(part.dataId);
    },
  });
  return {parts, rows: most};
}

async function valuesOf(backend: WebGPUBackend, parts: tf.TensorInfo[]): Promise<tf.TypedArray> {
  const values = (await Promise.all(parts.map(({dataId}) => backend.read(dataId)))) as tf.TypedArray[];
  const size = values.reduce((sum, {length}) => sum + length, 0);
  const all = tf.util.getTypedArrayFromDType(parts[0].dtype as 'int32', size);
  let at = 0;
  for (const each of values) {
    all.set(each, at);
    at += each.length;
  }
  return all;
}
