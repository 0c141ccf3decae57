import {blockType} from '../ggmlType.ts';
import {halfAt} from './halfAt.ts';
import {IQ4_VALUES} from './iq4_nl.ts';

/**
 * 256 values in 8 groups of 32: d (float16), the upper two bits of the 6-bit scales s (16 bits), their lower four (4
 * bytes), 16 bytes for each group as in `q4_0`. A value is `(d · (s − 32)) · IQ4_VALUES[q]`.
 */
export const iq4_xs = blockType({
  id: 23,
  name: 'IQ4_XS',
  valuesPerBlock: 256,
  bytesPerBlock: 136,
  decodeBlock(bytes, at, out, to) {
    const d = halfAt(bytes, at);
    const high = bytes[at + 2] | (bytes[at + 3] << 8);
    for (let group = 0; group < 8; group++) {
      const low = (bytes[at + 4 + (group >> 1)] >> ((group & 1) * 4)) & 15;
      const scale = Math.fround(d * ((low | (((high >> (2 * group)) & 3) << 4)) - 32));
      const first = to + group * 32;
      for (let i = 0; i < 16; i++) {
        const pair = bytes[at + 8 + group * 16 + i];
        out[first + i] = scale * IQ4_VALUES[pair & 15];
        out[first + 16 + i] = scale * IQ4_VALUES[pair >> 4];
      }
    }
  },
});
