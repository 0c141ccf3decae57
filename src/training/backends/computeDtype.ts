import {nearestNames, TfjsLoraError} from '../../../quant/errors.ts';

/** What large products can be multiplied in; no backend has all of them. */
export type ComputeDtype = 'float32' | 'bfloat16' | 'float16';

const COMPUTE_DTYPES: readonly ComputeDtype[] = ['float32', 'bfloat16', 'float16'];

/** @throws TfjsLoraError `INVALID_ARGUMENT` for a type that no backend has */
export function assertComputeDtype(asked: ComputeDtype | undefined): void {
  if (asked === undefined || COMPUTE_DTYPES.includes(asked)) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `useBackend computeDtype: expected ${COMPUTE_DTYPES.join(', ')}, got ${asked}. ` +
      `Did you mean ${nearestNames(String(asked), COMPUTE_DTYPES, 1)[0]}?`,
  );
}

/**
 * What a backend multiplies in when a type is asked for: that type, else another one of 16 bits, else float32.
 *
 * @param has what the backend can multiply in
 */
export function nearestComputeDtype<T extends ComputeDtype>(asked: ComputeDtype, has: readonly T[]): T {
  const distance = (dtype: ComputeDtype) => {
    if (dtype === asked) return 0;
    return (dtype === 'float32') === (asked === 'float32') ? 1 : 2;
  };
  return [...has].sort((a, b) => distance(a) - distance(b))[0];
}
