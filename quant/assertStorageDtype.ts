import {nearestNames, TfjsLoraError} from './errors.ts';
import type {StorageDtype} from './float16.ts';
import {show} from './show.ts';

const DTYPES = ['float32', 'bfloat16', 'float16'] as const satisfies StorageDtype[];

/** Short names of the types, as `torch.bfloat16` or `bf16`. */
const SHORT = [
  [/bf|brain/, 'bfloat16'],
  [/16|half/, 'float16'],
  [/32|full|^float$/, 'float32'],
] as const;

/**
 * Checks the name of a storage type.
 *
 * @param what option that has it, for messages
 * @throws TfjsLoraError `INVALID_ARGUMENT` with the name that was probably meant
 */
export function assertStorageDtype(what: string, dtype: StorageDtype | undefined): void {
  if (dtype === undefined || DTYPES.includes(dtype)) return;
  const [, meant] = SHORT.find(([pattern]) => pattern.test(String(dtype))) ?? [
    undefined,
    nearestNames(dtype, DTYPES, 1)[0],
  ];
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${what}: expected ${DTYPES.join(', ')}, got ${show(dtype)}. Did you mean '${meant}'?`,
  );
}
