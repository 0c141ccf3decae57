import {blockType} from '../ggmlType.ts';
import {encodeGroups} from './encodeGroups.ts';
import {halfAt} from './halfAt.ts';
import {minimumAt, scaleAt} from './sixBitScales.ts';

/**
 * 256 values in 8 groups of 32: d, dmin, scales and minima as in `q4_k`, 32 bytes of fifth bits (bit b of byte i belongs
 * to value 32 b + i), 128 bytes as in `q4_k`. A value is `(d · s) · q − dmin · m`.
 */
export const q5_k = blockType({
  id: 13,
  name: 'Q5_K',
  valuesPerBlock: 256,
  bytesPerBlock: 176,
  decodeBlock(bytes, at, out, to) {
    const d = halfAt(bytes, at);
    const dmin = halfAt(bytes, at + 2);
    for (let group = 0; group < 8; group++) {
      const scale = Math.fround(d * scaleAt(bytes, at + 4, group));
      const minimum = Math.fround(dmin * minimumAt(bytes, at + 4, group));
      const from = at + 48 + (group >> 1) * 32;
      const shift = (group & 1) * 4;
      for (let i = 0; i < 32; i++) {
        const value = ((bytes[from + i] >> shift) & 15) | (((bytes[at + 16 + i] >> group) & 1) << 4);
        out[to + group * 32 + i] = Math.fround(scale * value) - minimum;
      }
    }
  },
  encodeBlock(values, from, out, at) {
    const codes = encodeGroups(values, from, SEARCH, out, at);
    out.fill(0, at + 16, at + 48);
    for (let group = 0; group < 8; group++)
      for (let i = 0; i < 32; i++) out[at + 16 + i] |= (codes[group * 32 + i] >> 4) << group;
    for (let pair = 0; pair < 4; pair++)
      for (let i = 0; i < 32; i++)
        out[at + 48 + pair * 32 + i] = (codes[pair * 64 + i] & 15) | ((codes[pair * 64 + 32 + i] & 15) << 4);
  },
});

const SEARCH = {levels: 31, firstStep: -0.5, lastTrial: 15};
