import {blockType} from '../ggmlType.ts';
import {halfAt} from './halfAt.ts';

/** 32 values: scale d and minimum m (float16), 16 bytes as in `q4_0`. A value is `d · q + m`. */
export const q4_1 = blockType({
  id: 3,
  name: 'Q4_1',
  valuesPerBlock: 32,
  bytesPerBlock: 20,
  decodeBlock(bytes, at, out, to) {
    const scale = halfAt(bytes, at);
    const minimum = halfAt(bytes, at + 2);
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 4 + i];
      out[to + i] = Math.fround(scale * (pair & 15)) + minimum;
      out[to + 16 + i] = Math.fround(scale * (pair >> 4)) + minimum;
    }
  },
});
