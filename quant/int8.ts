import {
  INFINITY_BITS,
  magnitudeBits,
  nonFinite,
  readSource,
  type SourceValues,
  sourceDtype,
} from './blockwise/sourceValues.ts';
import {TfjsLoraError} from './errors.ts';
import {
  bfloat16ToFloat32,
  float16ToFloat32,
  float32ToBfloat16,
  float32ToFloat16,
  type HalfDtype,
  type StorageDtype,
} from './float16.ts';
import {assertKnownOptions, type OptionNames} from './knownOptions.ts';
import {assertMatrixShape, type MatrixShape, type QuantizedTensor, rowsTarget} from './quantizedTensor.ts';

/** Columns kept in 16 bits because one value is so large that its row's scale would not suit the others. */
export interface OutlierColumns {
  /** Ascending column numbers. */
  columns: Int32Array;
  /** 16-bit bits, `[rows, columns.length]`. */
  values: Uint16Array;
  /** bfloat16 for a bfloat16 source, else float16. */
  dtype: HalfDtype;
}

export interface Int8TensorParts {
  shape: MatrixShape;
  /** Row-major `[rows, cols]`. */
  codes: Int8Array;
  /** float32 [rows]: each row's largest magnitude, outliers left out. */
  rowAbsmax: Float32Array;
  outliers?: OutlierColumns;
  dtype: StorageDtype;
}

/** bitsandbytes' float32 for 1/127. */
const ONE_OF_127 = Math.fround(7.874015718698502e-3);

/** An 8-bit weight matrix as in LLM.int8(): one scale per row, outlier columns in 16 bits. */
export class Int8Tensor implements QuantizedTensor {
  readonly quantType = 'int8';
  readonly shape: MatrixShape;
  readonly codes: Int8Array;
  readonly rowAbsmax: Float32Array;
  readonly outliers: OutlierColumns | undefined;
  readonly dtype: StorageDtype;

  /** @throws TfjsLoraError `SHAPE_MISMATCH` when the parts do not fit `shape` */
  constructor({shape, codes, rowAbsmax, outliers, dtype}: Int8TensorParts) {
    assertMatrixShape('Int8Tensor', shape);
    assertLength('codes', codes.length, shape[0] * shape[1]);
    assertLength('rowAbsmax', rowAbsmax.length, shape[0]);
    if (outliers) assertLength('outliers', outliers.values.length, shape[0] * outliers.columns.length);
    this.shape = shape;
    this.codes = codes;
    this.rowAbsmax = rowAbsmax;
    this.outliers = outliers;
    this.dtype = dtype;
  }

  get byteLength(): number {
    const {columns, values} = this.outliers ?? {};
    return (
      this.codes.byteLength +
      this.rowAbsmax.byteLength +
      (columns?.byteLength ?? 0) +
      (values?.byteLength ?? 0)
    );
  }

  /** @inheritDoc */
  dequantize(out?: Float32Array): Float32Array {
    return this.dequantizeRows(0, this.shape[0], out);
  }

  /** Dequantizes rows bit-exactly as bitsandbytes' `int8_vectorwise_dequant`, and puts the outlier columns back. */
  dequantizeRows(begin: number, end: number, out?: Float32Array): Float32Array {
    const cols = this.shape[1];
    const values = rowsTarget('dequantizeRows', this.shape, begin, end, out);
    for (let row = begin; row < end; row++) {
      const scale = this.rowAbsmax[row];
      const start = row * cols;
      const to = (row - begin) * cols;
      for (let col = 0; col < cols; col++) {
        values[to + col] = Math.fround(this.codes[start + col] * scale) * ONE_OF_127;
      }
    }
    this.restoreOutliers(begin, end, values);
    return values;
  }

  private restoreOutliers(begin: number, end: number, out: Float32Array): void {
    if (this.outliers === undefined) return;
    const {columns, values, dtype} = this.outliers;
    const widen = dtype === 'bfloat16' ? bfloat16ToFloat32 : float16ToFloat32;
    const wide = widen(values.subarray(begin * columns.length, end * columns.length));
    for (let i = 0; i < wide.length; i++) {
      const row = Math.floor(i / columns.length);
      out[row * this.shape[1] + columns[i % columns.length]] = wide[i];
    }
  }
}

export interface Int8Options {
  /**
   * A column with a magnitude of at least this is kept in 16 bits. 0, the default, keeps none, as bitsandbytes does
   * for weights. LLM.int8() uses 6.
   */
  threshold?: number;
  /** `bfloat16` or `float16` when the values are 16-bit bits; not needed for float32. */
  dtype?: StorageDtype;
  /** The tensor, for messages. */
  name?: string;
}
const INT8_OPTIONS = {
  threshold: true,
  dtype: true,
  name: true,
} satisfies OptionNames<Int8Options>;

/**
 * Quantizes a weight matrix to 8 bits, row by row: `round(127 · value / rowAbsmax)`, ties to even. Codes and scales are
 * bit-exact with bitsandbytes' `int8_vectorwise_quant` on CPU: outliers are left out of the scales and, except in a
 * matrix of one row, the codes of their columns are 0.
 *
 * @param values row-major `[rows, cols]`
 * @throws TfjsLoraError `NON_FINITE` naming the tensor and the element, also for an outlier beyond float16;
 *   `SHAPE_MISMATCH` when `values` does not fill `shape`; `INVALID_ARGUMENT` for an impossible threshold or dtype
 */
export function quantizeInt8(
  values: SourceValues,
  shape: MatrixShape,
  options: Int8Options = {},
): Int8Tensor {
  const {threshold = 0, name = 'int8 quantization'} = options;
  assertKnownOptions(name, options, INT8_OPTIONS);
  const dtype = sourceDtype(values, options.dtype, name);
  assertMatrixShape(name, shape);
  const [rows, cols] = shape;
  if (values.length !== rows * cols) {
    const got = `expected ${rows * cols} values for [${rows}, ${cols}], got ${values.length}`;
    throw new TfjsLoraError('SHAPE_MISMATCH', `${name} values: ${got}.`);
  }
  if (!(threshold >= 0)) {
    const got = `expected a number of at least 0, got ${threshold}`;
    throw new TfjsLoraError('INVALID_ARGUMENT', `${name} [threshold]: ${got}.`);
  }
  const scratch = new Float32Array(values instanceof Float32Array ? 0 : cols);
  const readRow = (row: number) => {
    const source = readSource(values, dtype, row * cols, (row + 1) * cols, scratch);
    const words = new Int32Array(source.buffer, source.byteOffset, cols);
    if (magnitudeBits(words, 0, cols) >= INFINITY_BITS) throw nonFinite(name, source, row * cols);
    return source;
  };
  // torch compares in the tensor's dtype.
  const limit = threshold === 0 ? Number.POSITIVE_INFINITY : roundTo(dtype, threshold);
  const isOutlier = new Uint8Array(cols);
  if (threshold > 0) {
    for (let row = 0; row < rows; row++) {
      const source = readRow(row);
      for (let col = 0; col < cols; col++) if (Math.abs(source[col]) >= limit) isOutlier[col] = 1;
    }
  }
  const codes = new Int8Array(values.length);
  const rowAbsmax = new Float32Array(rows);
  for (let row = 0; row < rows; row++) {
    const source = readRow(row);
    let largest = 0;
    for (let col = 0; col < cols; col++) {
      const magnitude = Math.abs(source[col]);
      if (magnitude > largest && magnitude < limit) largest = magnitude;
    }
    rowAbsmax[row] = largest;
    const factor = Math.fround(Math.fround(1 / largest) * 127);
    for (let col = 0; col < cols; col++) {
      if (isOutlier[col] === 1 && (rows > 1 || Math.abs(source[col]) >= limit)) continue;
      codes[row * cols + col] = roundHalfToEven(Math.fround(source[col] * factor));
    }
  }
  const columns = Int32Array.from(isOutlier.keys()).filter((col) => isOutlier[col] === 1);
  const outliers = columns.length === 0 ? undefined : gatherOutliers(name, columns, rows, dtype, readRow);
  return new Int8Tensor({shape, codes, rowAbsmax, outliers, dtype});
}

function gatherOutliers(
  name: string,
  columns: Int32Array,
  rows: number,
  source: StorageDtype,
  readRow: (row: number) => Float32Array,
): OutlierColumns {
  const dtype = source === 'bfloat16' ? 'bfloat16' : 'float16';
  const wide = new Float32Array(rows * columns.length);
  for (let row = 0; row < rows; row++) {
    const values = readRow(row);
    for (let i = 0; i < columns.length; i++) wide[row * columns.length + i] = values[columns[i]];
  }
  const tooLarge = wide.findIndex((value) => dtype === 'float16' && Math.abs(value) >= 65520);
  if (tooLarge >= 0) {
    throw new TfjsLoraError(
      'NON_FINITE',
      `${name} [column ${columns[tooLarge % columns.length]}]: expected an outlier that float16 can hold, ` +
        `got ${wide[tooLarge]}. Quantize with threshold 0, or from bfloat16.`,
    );
  }
  const values = dtype === 'bfloat16' ? float32ToBfloat16(wide) : float32ToFloat16(wide);
  return {columns, values, dtype};
}

function roundTo(dtype: StorageDtype, value: number): number {
  const wide = Float32Array.of(value);
  if (dtype === 'bfloat16') return bfloat16ToFloat32(float32ToBfloat16(wide))[0];
  if (dtype === 'float16') return float16ToFloat32(float32ToFloat16(wide))[0];
  return wide[0];
}

/**
 * Rounds a small float64 to a whole number, ties to even, by adding and subtracting 1.5 · 2^52. A NaN, as a row of
 * zeros gives, stays a NaN.
 */
function roundHalfToEven(value: number): number {
  return value + 6755399441055744 - 6755399441055744;
}

function assertLength(what: string, length: number, expected: number): void {
  if (length !== expected) {
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `Int8Tensor ${what}: expected ${expected} values, got ${length}.`,
    );
  }
}
