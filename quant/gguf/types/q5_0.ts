import {blockType} from '../ggmlType.ts';
import {halfAt} from './halfAt.ts';

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
});

/** Reads the 32 bits at `bytes[at]`: bit i is the fifth bit of value i. */
export const fifthBitsAt = (bytes: Uint8Array, at: number): number =>
  bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
