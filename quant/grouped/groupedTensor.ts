import {TfjsLoraError} from '../errors.ts';
import {roundInPlace, type StorageDtype} from '../float16.ts';
import {assertMatrixShape, type MatrixShape, type QuantizedTensor, rowsTarget} from '../quantizedTensor.ts';
import type {TensorToWrite} from '../safetensors/writeSafetensors.ts';
import {float8Value} from './float8.ts';

/** Type of the codes of a {@link GroupedTensor}: whole numbers of 4 or 8 bits, or OCP's 8-bit floats E4M3. */
export type GroupedCodes = 'uint4' | 'uint8' | 'e4m3';

/** Quantization methods whose matrices are {@link GroupedTensor}s, by the `quant_method` of their files. */
export const GROUPED_TYPES = ['gptq', 'awq', 'fp8', 'compressed-tensors'] as const;
export type GroupedType = (typeof GROUPED_TYPES)[number];

/**
 * Properties of a matrix in its file other than its values. They are kept on the host and written again when the model
 * is saved.
 */
export interface GroupedFile {
  /** GPTQ: whether the file has `g_idx`. Default true. */
  hasIndex?: boolean;
  /** Type of the scales in the file. Default: the type of the values. */
  scaleDtype?: StorageDtype;
  /** Shape of the scales in the file. Default: the grid of groups. */
  scaleShape?: readonly number[];
  /** Tensors that values do not depend on, such as the scale of activations. */
  others?: TensorToWrite[];
}

export interface GroupedTensorParts {
  quantType: GroupedType;
  shape: MatrixShape;
  codeType: GroupedCodes;
  /** Row-major. Two `uint4` to a byte, the first in its low half; otherwise one to a byte. */
  codes: Uint8Array;
  /** Rows and columns that share a scale. Groups at the end may be smaller. */
  groupShape: readonly [rows: number, cols: number];
  /** One per group, row-major `[rows / groupRows, cols / groupCols]`, rounded up. */
  scales: Float32Array;
  /** The codes of 0, one per group. Default: 0. */
  zeros?: Uint8Array;
  /** The group of each column, `[cols]`. Default: columns are in the order of their groups. */
  groupIndex?: Int32Array;
  /** Type that values are rounded to. */
  dtype: StorageDtype;
  file?: GroupedFile;
}

/**
 * A weight matrix whose rectangular groups each have a scale and may have a zero: `scale · (code − zero)`, rounded to
 * {@link dtype}. GPTQ and AWQ have groups within rows; 8-bit floats have blocks, rows, or one group.
 */
export class GroupedTensor implements QuantizedTensor {
  readonly quantType: GroupedType;
  readonly shape: MatrixShape;
  readonly codeType: GroupedCodes;
  readonly codes: Uint8Array;
  readonly groupShape: readonly [rows: number, cols: number];
  readonly scales: Float32Array;
  readonly zeros: Uint8Array | undefined;
  readonly groupIndex: Int32Array | undefined;
  readonly dtype: StorageDtype;
  readonly file: GroupedFile | undefined;

  /** @throws TfjsLoraError `SHAPE_MISMATCH` when the parts do not fit `shape`, or a column has no group */
  constructor(parts: GroupedTensorParts) {
    const {shape, codeType, codes, groupShape, scales, zeros, groupIndex} = parts;
    assertMatrixShape('GroupedTensor', shape);
    const [rows, cols] = shape;
    const across = Math.ceil(cols / groupShape[1]);
    const groups = Math.ceil(rows / groupShape[0]) * across;
    assertLength('codes', codes.length, Math.ceil((rows * cols) / (codeType === 'uint4' ? 2 : 1)));
    assertLength('scales', scales.length, groups);
    if (zeros) assertLength('zeros', zeros.length, groups);
    if (groupIndex) assertLength('groupIndex', groupIndex.length, cols);
    const stray = groupIndex?.findIndex((group) => !(group >= 0 && group < across)) ?? -1;
    if (stray >= 0) {
      throw new TfjsLoraError(
        'SHAPE_MISMATCH',
        `GroupedTensor groupIndex [${stray}]: expected one of ${across} groups, got ${groupIndex?.[stray]}.`,
      );
    }
    this.quantType = parts.quantType;
    this.shape = shape;
    this.codeType = codeType;
    this.codes = codes;
    this.groupShape = groupShape;
    this.scales = scales;
    this.zeros = zeros;
    this.groupIndex = groupIndex;
    this.dtype = parts.dtype;
    this.file = parts.file;
  }

  get byteLength(): number {
    const {codes, scales, zeros, groupIndex} = this;
    return codes.byteLength + scales.byteLength + (zeros?.byteLength ?? 0) + (groupIndex?.byteLength ?? 0);
  }

  /** @inheritDoc */
  dequantize(out?: Float32Array): Float32Array {
    return this.dequantizeRows(0, this.shape[0], out);
  }

  /** @inheritDoc */
  dequantizeRows(begin: number, end: number, out?: Float32Array): Float32Array {
    const values = rowsTarget('dequantizeRows', this.shape, begin, end, out);
    const {shape, groupShape, scales, zeros, groupIndex} = this;
    const cols = shape[1];
    const across = Math.ceil(cols / groupShape[1]);
    const codeAt = this.reader();
    for (let row = begin; row < end; row++) {
      const first = Math.floor(row / groupShape[0]) * across;
      for (let col = 0; col < cols; col++) {
        const group = first + (groupIndex ? groupIndex[col] : Math.floor(col / groupShape[1]));
        const code = codeAt(row * cols + col) - (zeros ? zeros[group] : 0);
        values[(row - begin) * cols + col] = code * scales[group];
      }
    }
    return roundInPlace(values, this.dtype);
  }

  private reader(): (at: number) => number {
    const {codes} = this;
    if (this.codeType === 'uint8') return (at) => codes[at];
    if (this.codeType === 'e4m3') return (at) => float8Value(codes[at]);
    return (at) => (at % 2 === 0 ? codes[at / 2] & 15 : codes[(at - 1) / 2] >> 4);
  }
}

function assertLength(what: string, length: number, expected: number): void {
  if (length === expected) return;
  const got = `expected ${expected} values, got ${length}`;
  throw new TfjsLoraError('SHAPE_MISMATCH', `GroupedTensor ${what}: ${got}.`);
}
