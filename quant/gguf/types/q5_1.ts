import {blockType} from '../ggmlType.ts';
import {halfAt} from './halfAt.ts';
import {fifthBitsAt} from './q5_0.ts';

/** 32 values: scale d and minimum m (float16), then as in `q5_0`. A value is `d · q + m`. */
export const q5_1 = blockType({
  id: 7,
  name: 'Q5_1',
  valuesPerBlock: 32,
  bytesPerBlock: 24,
  decodeBlock(bytes, at, out, to) {
    const scale = halfAt(bytes, at);
    const minimum = halfAt(bytes, at + 2);
    const high = fifthBitsAt(bytes, at + 4);
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 8 + i];
      const low = (pair & 15) | (((high >>> i) & 1) << 4);
      const upper = (pair >> 4) | (((high >>> (i + 16)) & 1) << 4);
      out[to + i] = Math.fround(scale * low) + minimum;
      out[to + 16 + i] = Math.fround(scale * upper) + minimum;
    }
  },
});
