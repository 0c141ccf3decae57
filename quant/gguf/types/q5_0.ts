import {blockType} from '../ggmlType.ts';
import {halfAt, putHalf} from './halfAt.ts';
import {largestOf} from './largestOf.ts';

/**
 * 32 values: scale d (float16), the fifth bits (32 bits, bit i of value i), 16 bytes as in `q4_0`.
 * A value is `d · (q − 16)`.
 */
export const q5_0 = blockType({
  id: 6,
  name: 'Q5_0',
  valuesPerBlock: 32,
  bytesPerBlock: 22,
  decodeBlock(bytes, at, out, to) {
    const scale = halfAt(bytes, at);
    const high = fifthBitsAt(bytes, at + 2);
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 6 + i];
      out[to + i] = scale * (((pair & 15) | (((high >>> i) & 1) << 4)) - 16);
      out[to + 16 + i] = scale * (((pair >> 4) | (((high >>> (i + 16)) & 1) << 4)) - 16);
    }
  },
  encodeBlock(values, from, out, at) {
    const scale = Math.fround(largestOf(values, from, 32) / -16);
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    putHalf(out, at, scale);
    putFiveBits(out, at + 2, (i) =>
      Math.min(31, Math.trunc(Math.fround(Math.fround(values[from + i] * inverse) + 16.5))),
    );
  },
});

/** Reads the 32 bits at `bytes[at]`: bit i is the fifth bit of value i. */
export const fifthBitsAt = (bytes: Uint8Array, at: number): number =>
  bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);

/** Writes 32 codes of five bits: first the fifth bits, then the lower four as in `q4_0`. */
export function putFiveBits(out: Uint8Array, at: number, codeOf: (i: number) => number): void {
  out.fill(0, at, at + 4);
  for (let i = 0; i < 16; i++) {
    const low = codeOf(i);
    const upper = codeOf(i + 16);
    out[at + 4 + i] = (low & 15) | ((upper & 15) << 4);
    out[at + (i >> 3)] |= (low >> 4) << (i & 7);
    out[at + 2 + (i >> 3)] |= (upper >> 4) << (i & 7);
  }
}
