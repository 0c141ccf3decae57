import {TfjsLoraError} from '../errors.ts';
import {bfloat16ToFloat32, float16ToFloat32, type StorageDtype} from '../float16.ts';

/** What is quantized: float32 numbers, or the bits of 16-bit ones with their `dtype` beside them. */
export type SourceValues = Float32Array | Uint16Array;

/**
 * The dtype of `values`, checked against what the caller said.
 *
 * @param what the tensor, for messages
 * @throws TfjsLoraError `INVALID_ARGUMENT` when 16-bit values come without their dtype, or float32 ones with another
 */
export function sourceDtype(
  values: SourceValues,
  dtype: StorageDtype | undefined,
  what: string,
): StorageDtype {
  if (values instanceof Float32Array) {
    if (dtype === undefined || dtype === 'float32') return 'float32';
  } else if (dtype === 'bfloat16' || dtype === 'float16') {
    return dtype;
  }
  const expected =
    values instanceof Float32Array ? `'float32' for a Float32Array` : `'bfloat16' or 'float16' bits`;
  throw new TfjsLoraError('INVALID_ARGUMENT', `${what} [dtype]: expected ${expected}, got ${dtype}.`);
}

/** Values `begin` to `end` as float32, exact: a view of float32 values, else written into `scratch`. */
export function readSource(
  values: SourceValues,
  dtype: StorageDtype,
  begin: number,
  end: number,
  scratch: Float32Array,
): Float32Array {
  if (values instanceof Float32Array) return values.subarray(begin, end);
  const widen = dtype === 'bfloat16' ? bfloat16ToFloat32 : float16ToFloat32;
  return widen(values.subarray(begin, end), scratch.subarray(0, end - begin));
}

/** Bits of the largest magnitude in `words`, float32 bits, from `begin` to `end`: infinity or more when one is not finite. */
export function magnitudeBits(words: Int32Array, begin: number, end: number): number {
  let largest = 0;
  for (let i = begin; i < end; i++) {
    const magnitude = words[i] & 0x7fffffff;
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}

/** float32 bits of infinity: magnitudes at or above it are no numbers. */
export const INFINITY_BITS = 0x7f800000;

/** The `NON_FINITE` error for the first value that is none, `offset` values into the tensor `what`. */
export function nonFinite(what: string, values: Float32Array, offset: number): TfjsLoraError {
  const index = values.findIndex((value) => !Number.isFinite(value));
  return new TfjsLoraError(
    'NON_FINITE',
    `${what} [element ${offset + index}]: expected finite values to quantize, got ${values[index]}. ` +
      'Look for where the weight overflowed.',
  );
}
