import {blockType} from '../ggmlType.ts';
import {halfAt} from './halfAt.ts';

/**
 * 256 values in 16 groups of 16: 32 bytes of third bits (bit b of byte i belongs to value 32 b + i), 64 bytes of the
 * two lower bits as in `q2_k`, 12 bytes of 6-bit scales s, d (float16). A value is `(d · (s − 32)) · (q − 4)`.
 */
export const q3_k = blockType({
  id: 11,
  name: 'Q3_K',
  valuesPerBlock: 256,
  bytesPerBlock: 110,
  decodeBlock(bytes, at, out, to) {
    const d = halfAt(bytes, at + 108);
    for (let group = 0; group < 16; group++) {
      const scale = Math.fround(d * (scaleAt(bytes, at + 96, group) - 32));
      const first = group * 16;
      const low = at + 32 + (first >> 7) * 32 + (first & 31);
      const high = at + (first & 31);
      const shift = ((first >> 5) & 3) * 2;
      const bit = first >> 5;
      for (let i = 0; i < 16; i++) {
        const value = ((bytes[low + i] >> shift) & 3) | (((bytes[high + i] >> bit) & 1) << 2);
        out[to + first + i] = scale * (value - 4);
      }
    }
  },
});

/** Reads a 6-bit scale: its lower four bits are in bytes 0 to 7, its upper two in bytes 8 to 11. */
function scaleAt(bytes: Uint8Array, at: number, group: number): number {
  const low = (bytes[at + (group & 7)] >> ((group >> 3) * 4)) & 15;
  const high = (bytes[at + 8 + (group & 3)] >> ((group >> 2) * 2)) & 3;
  return low | (high << 4);
}
