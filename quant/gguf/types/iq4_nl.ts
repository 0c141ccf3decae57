import {blockType} from '../ggmlType.ts';
import {halfAt} from './halfAt.ts';

/** The sixteen numbers that the codes of `iq4_nl` and `iq4_xs` stand for. */
export const IQ4_VALUES = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113] as const;

/** 32 values: scale d (float16), 16 bytes as in `q4_0`. A value is `d · IQ4_VALUES[q]`. */
export const iq4_nl = blockType({
  id: 20,
  name: 'IQ4_NL',
  valuesPerBlock: 32,
  bytesPerBlock: 18,
  decodeBlock(bytes, at, out, to) {
    const scale = halfAt(bytes, at);
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 2 + i];
      out[to + i] = scale * IQ4_VALUES[pair & 15];
      out[to + 16 + i] = scale * IQ4_VALUES[pair >> 4];
    }
  },
});
