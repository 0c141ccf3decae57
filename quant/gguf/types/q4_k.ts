import {blockType} from '../ggmlType.ts';
import {encodeGroups} from './encodeGroups.ts';
import {halfAt} from './halfAt.ts';
import {minimumAt, scaleAt} from './sixBitScales.ts';

/**
 * 256 values in 8 groups of 32: d and dmin (float16), 12 bytes of 6-bit scales s and minima m, 128 bytes. A value is
 * `(d · s) · q − dmin · m`. Of each 64 values, byte i has value i in its low four bits and value 32 + i in its high ones.
 */
export const q4_k = blockType({
  id: 12,
  name: 'Q4_K',
  valuesPerBlock: 256,
  bytesPerBlock: 144,
  decodeBlock(bytes, at, out, to) {
    const d = halfAt(bytes, at);
    const dmin = halfAt(bytes, at + 2);
    for (let group = 0; group < 8; group++) {
      const scale = Math.fround(d * scaleAt(bytes, at + 4, group));
      const minimum = Math.fround(dmin * minimumAt(bytes, at + 4, group));
      const from = at + 16 + (group >> 1) * 32;
      const shift = (group & 1) * 4;
      for (let i = 0; i < 32; i++)
        out[to + group * 32 + i] = Math.fround(scale * ((bytes[from + i] >> shift) & 15)) - minimum;
    }
  },
  encodeBlock(values, from, out, at) {
    const codes = encodeGroups(values, from, SEARCH, out, at);
    for (let pair = 0; pair < 4; pair++)
      for (let i = 0; i < 32; i++)
        out[at + 16 + pair * 32 + i] = codes[pair * 64 + i] | (codes[pair * 64 + 32 + i] << 4);
  },
});

const SEARCH = {levels: 15, firstStep: -1, lastTrial: 20};
