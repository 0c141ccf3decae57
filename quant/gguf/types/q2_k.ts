import {blockType} from '../ggmlType.ts';
import {halfAt} from './halfAt.ts';

/**
 * 256 values in 16 groups of 16: 16 bytes (scale s in the low four bits, minimum m in the high ones), 64 bytes of
 * 2-bit values, d and dmin (float16). A value is `(d · s) · q − dmin · m`.
 *
 * Of each half of 128 values, byte i has values i, 32 + i, 64 + i and 96 + i, the first in its lowest bits.
 */
export const q2_k = blockType({
  id: 10,
  name: 'Q2_K',
  valuesPerBlock: 256,
  bytesPerBlock: 84,
  decodeBlock(bytes, at, out, to) {
    const d = halfAt(bytes, at + 80);
    const dmin = halfAt(bytes, at + 82);
    for (let group = 0; group < 16; group++) {
      const packed = bytes[at + group];
      const scale = Math.fround(d * (packed & 15));
      const minimum = Math.fround(dmin * (packed >> 4));
      const first = group * 16;
      const from = at + 16 + (first >> 7) * 32 + (first & 31);
      const shift = ((first >> 5) & 3) * 2;
      for (let i = 0; i < 16; i++)
        out[to + first + i] = Math.fround(scale * ((bytes[from + i] >> shift) & 3)) - minimum;
    }
  },
});
