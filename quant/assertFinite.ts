import {TfjsLoraError} from './errors.ts';
import type {HalfDtype} from './float16.ts';

/**
 * Checks that all values are finite numbers.
 *
 * @param where the weight, for messages
 * @throws TfjsLoraError `NON_FINITE` naming the first value that is NaN or infinite
 */
export function assertFinite(values: Float32Array, where: string): void {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) throw notFinite(where, i);
}

/** Does what {@link assertFinite} does, for the bits of 16-bit values. */
export function assertFiniteBits(bits: Uint16Array, dtype: HalfDtype, where: string): void {
  const exponent = dtype === 'bfloat16' ? 0x7f80 : 0x7c00;
  for (let i = 0; i < bits.length; i++) if ((bits[i] & exponent) === exponent) throw notFinite(where, i);
}

function notFinite(where: string, index: number): TfjsLoraError {
  return new TfjsLoraError(
    'NON_FINITE',
    `${where}: expected numbers, got NaN or infinity at element ${index}. The weights are damaged.`,
  );
}
