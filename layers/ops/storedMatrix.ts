import type * as tf from '@tensorflow/tfjs';
import type {HalfDtype, StorageDtype} from '../../quant/float16.ts';
import type {DeviceFormat, QuantizedMatrix} from './quantizedMatrix.ts';

/**
 * A `[rows, cols]` matrix as it is in memory. `float32`: `tensor` is float32 `[rows, cols]`. 16-bit types: `tensor` is
 * int32 `[rows, ceil(cols / 2)]`, element 2j of a row in the low half of word j.
 */
export interface DenseMatrix {
  tensor: tf.Tensor;
  dtype: StorageDtype;
  rows: number;
  cols: number;
}

/** A frozen weight in any storage that the ops can multiply with. */
export type StoredMatrix = DenseMatrix | QuantizedMatrix;

/** A 16-bit {@link DenseMatrix} without its tensor. */
export interface HalfFormat {
  dtype: HalfDtype;
  rows: number;
  cols: number;
}

/** A matrix of 16 or fewer bits without its tensors: the attributes that kernels take. */
export type StoredFormat = HalfFormat | DeviceFormat;

/**
 * The tensors of a matrix as kernels take them: `weight` for 16 bits, otherwise those of its quantized storage, by
 * name.
 */
export type StoredTensors = Record<string, tf.TensorInfo>;

/** Returns the shape of the tensor that stores a `[rows, cols]` matrix of this type. */
export function storedShape(dtype: StorageDtype, rows: number, cols: number): [number, number] {
  return [rows, dtype === 'float32' ? cols : Math.ceil(cols / 2)];
}

export function isQuantized(matrix: StoredMatrix): matrix is QuantizedMatrix {
  return 'tensors' in matrix;
}

/** Whether kernels that compute in 16 bits take a matrix of these sides: multiples of 16 numbers. */
export const areWholeMatrices = (sides: readonly number[]): boolean => sides.every((side) => side % 16 === 0);

/**
 * Whether kernels that compute in 16 bits take a matrix: rows, columns and blocks must be multiples of 16 numbers, and
 * the numbers must have at most 16 bits, be on the device, have one type, and a scale for a block or a row.
 */
export function fits16BitKernels(matrix: StoredMatrix): boolean {
  const {rows, cols, blockSize = 16} = matrix as StoredMatrix & {blockSize?: number};
  if (!areWholeMatrices([rows, cols, blockSize])) return false;
  if (matrix.dtype === 'int8') return matrix.outliers === 0;
  return matrix.dtype !== 'hosted' && matrix.dtype !== 'float32' && matrix.dtype !== 'grouped';
}

/** Returns the tensors that store a matrix, by the names that kernels use. */
export function tensorsOf(matrix: StoredMatrix): tf.NamedTensorMap {
  return isQuantized(matrix) ? {...matrix.tensors} : {weight: matrix.tensor};
}

/** Returns the attributes by which kernels know a matrix, which must have 16 or fewer bits. */
export function attributesOf(matrix: StoredMatrix): StoredFormat {
  const entries = Object.entries(matrix).filter(([name]) => name !== 'tensor' && name !== 'tensors');
  return Object.fromEntries(entries) as StoredFormat;
}

/** Returns the same matrix with other tensors of the same contents, given in the order of {@link tensorsOf}. */
export function withTensors<M extends StoredMatrix>(matrix: M, tensors: tf.Tensor[]): M {
  if (!isQuantized(matrix)) return {...matrix, tensor: tensors[0]};
  const entries = Object.keys(matrix.tensors).map((name, i) => [name, tensors[i]]);
  return {...matrix, tensors: Object.fromEntries(entries)};
}
