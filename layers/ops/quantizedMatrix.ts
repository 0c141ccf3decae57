import * as tf from '@tensorflow/tfjs';
import {type HalfDtype, packRows, type StorageDtype, unpackRowBits} from '../../quant/float16.ts';
import {FourBitTensor} from '../../quant/fourBitTensor.ts';
import {
  type GroupedCodes,
  type GroupedFile,
  GroupedTensor,
  type GroupedType,
} from '../../quant/grouped/groupedTensor.ts';
import {Int8Tensor} from '../../quant/int8.ts';
import type {QuantizedTensor} from '../../quant/quantizedTensor.ts';

/** A 4-bit matrix on the device: bitsandbytes' bytes, four to an int32 word, the first in the lowest byte. */
export interface FourBitMatrix {
  dtype: 'nf4' | 'fp4';
  rows: number;
  cols: number;
  blockSize: number;
  /** How many scales share a scale of their own; 0 when the scales are not quantized. */
  nestedBlockSize: number;
  /** Added to a double-quantized scale. */
  offset: number;
  /** Type that dequantized values are rounded to, as bitsandbytes does; float32 means no rounding. */
  valueDtype: StorageDtype;
  /**
   * `codes` int32 `[ceil(rows · cols / 8)]`: element 2i of the row-major values in the high half of byte i. The scales
   * are `absmax` float32 `[blocks]`, or `absmaxCodes` int32 `[ceil(blocks / 4)]` (bytes), which index `map` float32
   * `[256]`, times `nestedAbsmax` float32 `[ceil(blocks / nestedBlockSize)]`, plus `offset`.
   */
  tensors: {codes: tf.Tensor; absmax: tf.Tensor} | NestedTensors;
}

interface NestedTensors {
  codes: tf.Tensor;
  absmaxCodes: tf.Tensor;
  nestedAbsmax: tf.Tensor;
  map: tf.Tensor;
}

/** An int8 matrix on the device: `code · scale / 127`, except in outlier columns, which are stored in 16 bits. */
export interface Int8Matrix {
  dtype: 'int8';
  rows: number;
  cols: number;
  /** Number of outlier columns. */
  outliers: number;
  /** Type of the outlier columns. */
  outlierDtype: HalfDtype;
  /**
   * `codes` int32 `[ceil(rows · cols / 4)]`, signed bytes; `scales` float32 `[rows]`; with outliers `outlierIndex`
   * int32 `[cols]` (a column's place among the outliers, or −1) and `outlierValues` int32 `[rows, ceil(outliers / 2)]`.
   */
  tensors: {codes: tf.Tensor; scales: tf.Tensor; outlierIndex?: tf.Tensor; outlierValues?: tf.Tensor};
}

/** A matrix in groups on the device, as GPTQ, AWQ and 8-bit floats have them: `scale · (code − zero)`; `cols` is a multiple of 8. */
export interface GroupedMatrix {
  dtype: 'grouped';
  /** The method whose files store it. */
  quantType: GroupedType;
  rows: number;
  cols: number;
  codeType: GroupedCodes;
  /** Rows and columns that share a scale. */
  groupRows: number;
  groupCols: number;
  hasZeros: boolean;
  /** Whether `groupIndex` has the group of each column. */
  hasIndex: boolean;
  /** Type that dequantized values are rounded to. */
  valueDtype: StorageDtype;
  /**
   * `codes` int32, row-major, eight `uint4` or four others to a word, the first in the lowest bits. One per group,
   * row-major: `scales` float32, and `zeros` int32, four to a word. `groupIndex` int32 `[cols]`.
   */
  tensors: {codes: tf.Tensor; scales: tf.Tensor; zeros?: tf.Tensor; groupIndex?: tf.Tensor};
}

/** A matrix of a quantizer that only its own code can read: it stays on the host and is dequantized there. */
export interface HostedMatrix {
  dtype: 'hosted';
  rows: number;
  cols: number;
  matrix: QuantizedTensor;
  tensors: Record<string, never>;
}

export type QuantizedMatrix = FourBitMatrix | Int8Matrix | GroupedMatrix | HostedMatrix;

/** A stored matrix without its tensors, for the formats that tensors and numbers describe in full. */
export type DeviceFormat =
  | Omit<FourBitMatrix, 'tensors'>
  | Omit<Int8Matrix, 'tensors'>
  | Omit<GroupedMatrix, 'tensors'>;

/** Returns how many groups a matrix in groups has down and across. */
export const groupGrid = ({
  rows,
  cols,
  groupRows,
  groupCols,
}: Omit<GroupedMatrix, 'tensors'>): [down: number, across: number] => [
  Math.ceil(rows / groupRows),
  Math.ceil(cols / groupCols),
];

/** Returns the bytes of codes and scales, counted as for the matrix on the host. */
export function storedBytes(format: DeviceFormat): number {
  const {rows, cols} = format;
  const size = rows * cols;
  if (format.dtype === 'int8') return size + 4 * rows + format.outliers * (4 + 2 * rows);
  if (format.dtype === 'grouped') {
    const [down, across] = groupGrid(format);
    const codes = format.codeType === 'uint4' ? size / 2 : size;
    return codes + down * across * (format.hasZeros ? 5 : 4) + (format.hasIndex ? 4 * cols : 0);
  }
  const {blockSize, nestedBlockSize} = format;
  const blocks = Math.ceil(size / blockSize);
  const scales = nestedBlockSize === 0 ? 4 * blocks : blocks + 4 * Math.ceil(blocks / nestedBlockSize) + 4;
  return Math.ceil(size / 2) + scales;
}

/** Returns the shapes of the tensors that store a matrix of this format, by name. */
export function storedShapes(format: DeviceFormat): Record<string, number[]> {
  const {rows, cols} = format;
  const size = rows * cols;
  if (format.dtype === 'int8') {
    const {outliers} = format;
    const kept = {outlierIndex: [cols], outlierValues: [rows, Math.ceil(outliers / 2)]};
    return {codes: [Math.ceil(size / 4)], scales: [rows], ...(outliers > 0 && kept)};
  }
  if (format.dtype === 'grouped') {
    const [down, across] = groupGrid(format);
    return {
      codes: [size / (format.codeType === 'uint4' ? 8 : 4)],
      scales: [down * across],
      ...(format.hasZeros && {zeros: [Math.ceil((down * across) / 4)]}),
      ...(format.hasIndex && {groupIndex: [cols]}),
    };
  }
  const {blockSize, nestedBlockSize} = format;
  const blocks = Math.ceil(size / blockSize);
  const codes = [Math.ceil(size / 8)];
  if (nestedBlockSize === 0) return {codes, absmax: [blocks]};
  const nestedAbsmax = [Math.ceil(blocks / nestedBlockSize)];
  return {codes, absmaxCodes: [Math.ceil(blocks / 4)], nestedAbsmax, map: [256]};
}

/**
 * Puts a quantized matrix on the device, without a copy if the bytes allow. The caller keeps or disposes its tensors.
 */
export function storeQuantized(matrix: QuantizedTensor): QuantizedMatrix {
  const [rows, cols] = matrix.shape;
  if (matrix instanceof FourBitTensor) {
    const {quantType: dtype, blockSize, packed, absmax, dtype: valueDtype} = matrix;
    const codes = wordTensor(packed);
    if (absmax instanceof Float32Array) {
      const tensors = {codes, absmax: tf.tensor1d(absmax)};
      return {dtype, rows, cols, blockSize, nestedBlockSize: 0, offset: 0, valueDtype, tensors};
    }
    const {quantized, nestedAbsmax, nestedBlockSize, offset, map} = absmax;
    const tensors = {
      codes,
      absmaxCodes: wordTensor(quantized),
      nestedAbsmax: tf.tensor1d(nestedAbsmax),
      map: tf.tensor1d(map),
    };
    return {dtype, rows, cols, blockSize, nestedBlockSize, offset, valueDtype, tensors};
  }
  if (matrix instanceof Int8Tensor) {
    const {codes, rowAbsmax, outliers} = matrix;
    const tensors = {codes: wordTensor(codes), scales: tf.tensor1d(rowAbsmax)};
    if (!outliers) return {dtype: 'int8', rows, cols, outliers: 0, outlierDtype: 'float16', tensors};
    const {columns, values, dtype: outlierDtype} = outliers;
    const index = new Int32Array(cols).fill(-1);
    for (const [place, column] of columns.entries()) index[column] = place;
    const packed = packRows(values, rows, columns.length);
    return {
      dtype: 'int8',
      rows,
      cols,
      outliers: columns.length,
      outlierDtype,
      tensors: {
        ...tensors,
        outlierIndex: tf.tensor1d(index, 'int32'),
        outlierValues: tf.tensor2d(packed, [rows, Math.ceil(columns.length / 2)], 'int32'),
      },
    };
  }
  if (matrix instanceof GroupedTensor && cols % 8 === 0) return storeGrouped(matrix);
  return {dtype: 'hosted', rows, cols, matrix, tensors: {}};
}

function storeGrouped(matrix: GroupedTensor): GroupedMatrix {
  const {quantType, shape, codeType, codes, groupShape, scales, zeros, groupIndex, dtype} = matrix;
  return {
    dtype: 'grouped',
    quantType,
    rows: shape[0],
    cols: shape[1],
    codeType,
    groupRows: groupShape[0],
    groupCols: groupShape[1],
    hasZeros: zeros !== undefined,
    hasIndex: groupIndex !== undefined,
    valueDtype: dtype,
    tensors: {
      codes: wordTensor(codes),
      scales: tf.tensor1d(scales),
      ...(zeros && {zeros: wordTensor(zeros)}),
      ...(groupIndex && {groupIndex: tf.tensor1d(groupIndex, 'int32')}),
    },
  };
}

/**
 * Reads a quantized matrix from the device.
 *
 * @param dtype the weight's type before quantization
 * @param file what its file says beside its values
 */
export async function readQuantized(
  storage: QuantizedMatrix,
  dtype: StorageDtype,
  file?: GroupedFile,
): Promise<QuantizedTensor> {
  if (storage.dtype === 'hosted') return storage.matrix;
  const names = Object.keys(storage.tensors);
  const arrays = await Promise.all(Object.values(storage.tensors).map((tensor: tf.Tensor) => tensor.data()));
  return hostMatrix(
    storage,
    dtype,
    Object.fromEntries(names.map((name, i) => [name, arrays[i] as TensorValues])),
    file,
  );
}

type TensorValues = Int32Array | Float32Array;

/**
 * Makes a quantized tensor of the contents of a matrix's tensors.
 *
 * @param dtype the type of an int8 weight before quantization; a 4-bit one keeps it in its storage
 */
export function hostMatrix(
  storage: DeviceFormat,
  dtype: StorageDtype,
  values: Record<string, TensorValues>,
  file?: GroupedFile,
): FourBitTensor | Int8Tensor | GroupedTensor {
  const {rows, cols} = storage;
  const size = rows * cols;
  if (storage.dtype === 'int8') {
    const {outliers, outlierDtype} = storage;
    const codes = new Int8Array(values.codes.buffer, values.codes.byteOffset, size);
    const parts = {shape: [rows, cols] as const, codes, rowAbsmax: values.scales as Float32Array, dtype};
    if (outliers === 0) return new Int8Tensor(parts);
    const columns = new Int32Array(outliers);
    for (const [column, place] of values.outlierIndex.entries()) if (place >= 0) columns[place] = column;
    const bits = unpackRowBits(values.outlierValues as Int32Array, rows, outliers);
    return new Int8Tensor({...parts, outliers: {columns, values: bits, dtype: outlierDtype}});
  }
  if (storage.dtype === 'grouped') {
    const {quantType, codeType, groupRows, groupCols, valueDtype} = storage;
    const scales = values.scales as Float32Array;
    return new GroupedTensor({
      quantType,
      shape: [rows, cols],
      codeType,
      codes: bytesOf(values.codes, codeType === 'uint4' ? size / 2 : size),
      groupShape: [groupRows, groupCols],
      scales,
      zeros: values.zeros && bytesOf(values.zeros, scales.length),
      groupIndex: values.groupIndex as Int32Array | undefined,
      dtype: valueDtype,
      file,
    });
  }
  const {blockSize, nestedBlockSize, offset, valueDtype} = storage;
  const blocks = Math.ceil(size / blockSize);
  const absmax =
    nestedBlockSize === 0
      ? (values.absmax as Float32Array)
      : {
          quantized: bytesOf(values.absmaxCodes, blocks),
          nestedAbsmax: values.nestedAbsmax as Float32Array,
          nestedBlockSize,
          offset,
          map: values.map as Float32Array,
        };
  return new FourBitTensor({
    quantType: storage.dtype,
    shape: [rows, cols],
    blockSize,
    packed: bytesOf(values.codes, Math.ceil(size / 2)),
    absmax,
    dtype: valueDtype,
  });
}

function bytesOf({buffer, byteOffset}: TensorValues, length: number): Uint8Array {
  return new Uint8Array(buffer, byteOffset, length);
}

function wordTensor(bytes: Uint8Array | Int8Array): tf.Tensor1D {
  const length = Math.ceil(bytes.length / 4);
  if (bytes.length % 4 === 0 && bytes.byteOffset % 4 === 0) {
    return tf.tensor1d(new Int32Array(bytes.buffer, bytes.byteOffset, length), 'int32');
  }
  const padded = new Uint8Array(4 * length);
  padded.set(bytes);
  return tf.tensor1d(new Int32Array(padded.buffer), 'int32');
}
