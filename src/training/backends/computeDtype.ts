import {didYouMean, TfjsLoraError} from '../../../quant/errors.ts';

/** Type in which large products can be multiplied; no backend has all of them. */
export type ComputeDtype = 'float32' | 'bfloat16' | 'float16';

const COMPUTE_DTYPES: readonly ComputeDtype[] = ['float32', 'bfloat16', 'float16'];

/**
 * Checks a requested type.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for a type that no backend has
 */
export function assertComputeDtype(asked: ComputeDtype | undefined): void {
  if (asked === undefined || COMPUTE_DTYPES.includes(asked)) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `useBackend computeDtype: expected ${COMPUTE_DTYPES.join(', ')}, got ${asked}.${didYouMean(asked, COMPUTE_DTYPES)}`,
  );
}

/**
 * Returns the type that a backend uses for a requested one: that type, or else another of 16 bits, or else float32.
 *
 * @param has types that the backend can multiply in
 */
export function nearestComputeDtype<T extends ComputeDtype>(asked: ComputeDtype, has: readonly T[]): T {
  const distance = (dtype: ComputeDtype) => {
    if (dtype === asked) return 0;
    return (dtype === 'float32') === (asked === 'float32') ? 1 : 2;
  };
  return [...has].sort((a, b) => distance(a) - distance(b))[0];
}
