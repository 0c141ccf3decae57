import {halfToNumber} from '../../float16.ts';

/** Reads the float16, little endian, at `bytes[at]`: a block's scale or offset. */
export const halfAt = (bytes: Uint8Array, at: number): number =>
  halfToNumber(bytes[at] | (bytes[at + 1] << 8));
