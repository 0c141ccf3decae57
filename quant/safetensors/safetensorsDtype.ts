import {show} from '../show.ts';

/**
 * Bits per element of every dtype that a safetensors file may name, in the order of the reference library's
 * enumeration. It writes tensors of later dtypes first, so that each one starts aligned to its own size.
 */
const DTYPE_BITS = {
  BOOL: 8,
  F4: 4,
  F6_E2M3: 6,
  F6_E3M2: 6,
  U8: 8,
  I8: 8,
  F8_E5M2: 8,
  F8_E4M3: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  I16: 16,
  U16: 16,
  F16: 16,
  BF16: 16,
  I32: 32,
  U32: 32,
  F32: 32,
  C64: 64,
  F64: 64,
  I64: 64,
  U64: 64,
} as const;

/** A dtype as safetensors spells it. Every one can be listed, read and written as raw bytes. */
export type SafetensorsDtype = keyof typeof DTYPE_BITS;

const DTYPES = Object.keys(DTYPE_BITS) as SafetensorsDtype[];

export function isSafetensorsDtype(value: unknown): value is SafetensorsDtype {
  return typeof value === 'string' && Object.hasOwn(DTYPE_BITS, value);
}

/** Lists all dtypes, for error messages. */
export function safetensorsDtypes(): string {
  return DTYPES.join(', ');
}

/** Sorts dtypes as the reference library writes them: negative when tensors of `a` come before those of `b`. */
export function compareDtypes(a: SafetensorsDtype, b: SafetensorsDtype): number {
  return DTYPES.indexOf(b) - DTYPES.indexOf(a);
}

/**
 * Says what is wrong with a tensor's shape; undefined when nothing is. A shape is an array of whole numbers of at least
 * 0 whose product, and the bytes it stands for, can be counted exactly (below 2^53).
 */
export function shapeFault(dtype: SafetensorsDtype, shape: unknown): string | undefined {
  if (!Array.isArray(shape)) return `expected shape to be an array, got ${show(shape)}`;
  const bits = DTYPE_BITS[dtype];
  let elements = 1;
  for (const size of shape) {
    if (!isCount(size)) {
      return `expected shape to hold whole numbers of at least 0, got ${show(shape)}`;
    }
    elements *= size;
    if (!Number.isSafeInteger(elements * bits)) return `expected fewer than 2^53 bits, got shape [${shape}]`;
  }
  if ((elements * bits) % 8 !== 0) {
    return `expected ${dtype} (${bits} bits) to fill whole bytes, got shape [${shape}]`;
  }
  return undefined;
}

/** Returns the bytes of a tensor whose shape has no {@link shapeFault}. */
export function byteLengthOf(dtype: SafetensorsDtype, shape: readonly number[]): number {
  return (elementCount(shape) * DTYPE_BITS[dtype]) / 8;
}

/** Returns the number of elements of a tensor: the product of its shape, 1 for a scalar. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** Whether a value is a whole number from 0 to below 2^53. −0 is not, as in the reference library. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && !Object.is(value, -0);
}
