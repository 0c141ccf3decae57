import {blockType} from '../ggmlType.ts';
import {halfAt, putHalf} from './halfAt.ts';
import {fifthBitsAt, putFiveBits} from './q5_0.ts';

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
  encodeBlock(values, from, out, at) {
    let [least, most] = [values[from], values[from]];
    for (let i = from + 1; i < from + 32; i++) {
      if (values[i] < least) least = values[i];
      if (values[i] > most) most = values[i];
    }
    const scale = Math.fround(Math.fround(most - least) / 31);
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    putHalf(out, at, scale);
    putHalf(out, at + 2, least);
    putFiveBits(out, at + 4, (i) =>
      Math.trunc(Math.fround(Math.fround(Math.fround(values[from + i] - least) * inverse) + 0.5)),
    );
  },
});
