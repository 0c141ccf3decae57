import {TfjsLoraError} from '../errors.ts';
import {bfloat16ToFloat32, float16ToFloat32, type StorageDtype} from '../float16.ts';

/** Values to quantize: float32 numbers, or the bits of 16-bit numbers, whose `dtype` is given separately. */
export type SourceValues = Float32Array | Uint16Array;

/**
 * Returns the dtype of `values`, checked against the one that the caller gave.
 *
 * @param what the tensor, for messages
 * @throws TfjsLoraError `INVALID_ARGUMENT` when 16-bit values have no dtype, or float32 values another one
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

/**
 * Returns the values that a quantizer gets as float32 numbers, checked: the given array, or a new one for 16-bit values.
 *
 * @param dtype dtype of 16-bit values
 * @param name the tensor, for messages
 * @throws TfjsLoraError `NON_FINITE`, `INVALID_ARGUMENT`, naming the tensor
 */
export function finiteValues(values: SourceValues, dtype?: StorageDtype, name = 'weight'): Float32Array {
  const source = sourceDtype(values, dtype, name);
  const floats = readSource(
    values,
    source,
    0,
    values.length,
    new Float32Array(source === 'float32' ? 0 : values.length),
  );
  if (!floats.every(Number.isFinite)) throw nonFinite(name, floats, 0);
  return floats;
}

/** Returns values `begin` to `end` as float32, exact: a view of float32 values; others are written into `scratch`. */
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

/**
 * Returns the bits of the largest magnitude in `words`, float32 bits, from `begin` to `end`. They are at least
 * {@link INFINITY_BITS} when a value is not finite.
 */
export function magnitudeBits(words: Int32Array, begin: number, end: number): number {
  let largest = 0;
  for (let i = begin; i < end; i++) {
    const magnitude = words[i] & 0x7fffffff;
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}

/** float32 bits of infinity. Magnitudes whose bits are at or above them are not finite. */
export const INFINITY_BITS = 0x7f800000;

/** Makes the `NON_FINITE` error for the first value that is not finite; `values` start at `offset` in the tensor. */
export function nonFinite(what: string, values: Float32Array, offset: number): TfjsLoraError {
  const index = values.findIndex((value) => !Number.isFinite(value));
  return new TfjsLoraError(
    'NON_FINITE',
    `${what} [element ${offset + index}]: expected finite values to quantize, got ${values[index]}. ` +
      'Look for where the weight overflowed.',
  );
}
