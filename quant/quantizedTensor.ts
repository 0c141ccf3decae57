import {TfjsLoraError} from './errors.ts';
import type {StorageDtype} from './float16.ts';

/** Shape `[rows, cols]` of a weight as model files store it: `[outputs, inputs]`. */
export type MatrixShape = readonly [rows: number, cols: number];

/** A weight matrix in fewer bits, regardless of the format, as far as a layer needs to know it. */
export interface QuantizedTensor {
  /** The format's name, as its {@link Quantizer} is registered. */
  readonly quantType: string;
  readonly shape: MatrixShape;
  /** Dtype before quantization, which dequantizing for a file should give back. */
  readonly dtype: StorageDtype;
  /** Bytes of memory that the weight takes, scales included. */
  readonly byteLength: number;
  /** Returns all values, float32 `[rows, cols]`, in `out` when given. */
  dequantize(out?: Float32Array): Float32Array;
  /** Returns rows `begin` to `end`, float32 `[end - begin, cols]`, in `out` when given. */
  dequantizeRows(begin: number, end: number, out?: Float32Array): Float32Array;
}

/** @throws TfjsLoraError `INVALID_ARGUMENT` when `shape` is not `[rows, cols]` of whole numbers of at least 0 */
export function assertMatrixShape(what: string, shape: readonly number[]): asserts shape is MatrixShape {
  if (shape.length !== 2 || !shape.every((size) => Number.isSafeInteger(size) && size >= 0)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${what} [shape]: expected [rows, cols] of whole numbers of at least 0, got [${shape}].`,
    );
  }
}

/** Returns the memory for rows `begin` to `end`: `out` once its length is checked, or a new array. */
export function rowsTarget(
  what: string,
  [rows, cols]: MatrixShape,
  begin: number,
  end: number,
  out: Float32Array | undefined,
): Float32Array {
  const isRange = Number.isSafeInteger(begin) && Number.isSafeInteger(end) && begin >= 0 && begin <= end;
  if (!isRange || end > rows) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${what} rows: expected a range within 0 to ${rows}, got ${begin} to ${end}.`,
    );
  }
  const length = (end - begin) * cols;
  if (out !== undefined && out.length !== length) {
    throw new TfjsLoraError('SHAPE_MISMATCH', `${what} out: expected ${length} values, got ${out.length}.`);
  }
  return out ?? new Float32Array(length);
}
