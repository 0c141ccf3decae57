import {float32ToFloat16, halfToNumber} from '../../float16.ts';

/** Reads the float16, little endian, at `bytes[at]`: a block's scale or offset. */
export const halfAt = (bytes: Uint8Array, at: number): number =>
  halfToNumber(bytes[at] | (bytes[at + 1] << 8));

const number = new Float32Array(1);
const half = new Uint16Array(1);

/** Writes a number as float16, little endian, at `bytes[at]`. */
export function putHalf(bytes: Uint8Array, at: number, value: number): void {
  number[0] = value;
  float32ToFloat16(number, half);
  bytes[at] = half[0];
  bytes[at + 1] = half[0] >> 8;
}
