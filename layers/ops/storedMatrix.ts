import type * as tf from '@tensorflow/tfjs';
import type {HalfDtype, StorageDtype} from '../../quant/float16.ts';
import type {DeviceFormat, QuantizedMatrix} from './quantizedMatrix.ts';

/**
 * A `[rows, cols]` matrix as it lies in memory. `float32`: `tensor` is float32 `[rows, cols]`. 16-bit
 * types: `tensor` is int32 `[rows, ceil(cols / 2)]`, element 2j of a row in the low half of word j.
 */
export interface DenseMatrix {
  tensor: tf.Tensor;
  dtype: StorageDtype;
  rows: number;
  cols: number;
}

/** A frozen weight in any storage that the ops can multiply with. */
export type StoredMatrix = DenseMatrix | QuantizedMatrix;

/** What a {@link DenseMatrix} of 16 bits is beside its tensor. */
export interface HalfFormat {
  dtype: HalfDtype;
  rows: number;
  cols: number;
}

/** What a matrix of 16 or fewer bits is beside its tensors: the attributes by which kernels know it. */
export type StoredFormat = HalfFormat | DeviceFormat;

/** The tensors of a matrix as kernels take them: `weight` of a 16-bit one, else those of its quantized storage, by name. */
export type StoredTensors = Record<string, tf.TensorInfo>;

/** The shape of the tensor that stores a `[rows, cols]` matrix of that type. */
export function storedShape(dtype: StorageDtype, rows: number, cols: number): [number, number] {
  return [rows, dtype === 'float32' ? cols : Math.ceil(cols / 2)];
}

export function isQuantized(matrix: StoredMatrix): matrix is QuantizedMatrix {
  return 'tensors' in matrix;
}

/**
 * Whether kernels that compute in 16 bits take a matrix: rows, columns and blocks are multiples of 16 numbers, and those have at
 * most 16 bits, are on the device, and all of one type.
 */
export function fits16BitKernels(matrix: StoredMatrix): boolean {
  const {rows, cols, blockSize = 16} = matrix as StoredMatrix & {blockSize?: number};
  if ([rows, cols, blockSize].some((size) => size % 16 !== 0)) return false;
  if (matrix.dtype === 'int8') return matrix.outliers === 0;
  return matrix.dtype !== 'hosted' && matrix.dtype !== 'float32';
}

/** The tensors a matrix is stored in, by the names kernels know them by. */
export function tensorsOf(matrix: StoredMatrix): tf.NamedTensorMap {
  return isQuantized(matrix) ? {...matrix.tensors} : {weight: matrix.tensor};
}

/** What else kernels need to know of a matrix, which must have 16 or fewer bits. */
export function attributesOf(matrix: StoredMatrix): StoredFormat {
  const entries = Object.entries(matrix).filter(([name]) => name !== 'tensor' && name !== 'tensors');
  return Object.fromEntries(entries) as StoredFormat;
}

/** The same matrix in other tensors of the same contents, given in the order of {@link tensorsOf}. */
export function withTensors<M extends StoredMatrix>(matrix: M, tensors: tf.Tensor[]): M {
  if (!isQuantized(matrix)) return {...matrix, tensor: tensors[0]};
  const entries = Object.keys(matrix.tensors).map((name, i) => [name, tensors[i]]);
  return {...matrix, tensors: Object.fromEntries(entries)};
}
