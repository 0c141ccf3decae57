import {blockType} from '../ggmlType.ts';
import {halfAt, putHalf} from './halfAt.ts';
import {largestOf} from './largestOf.ts';

/** 32 values: scale d (float16), 32 signed bytes q. A value is `d · q`. */
export const q8_0 = blockType({
  id: 8,
  name: 'Q8_0',
  valuesPerBlock: 32,
  bytesPerBlock: 34,
  decodeBlock(bytes, at, out, to) {
    const scale = halfAt(bytes, at);
    for (let i = 0; i < 32; i++) out[to + i] = scale * ((bytes[at + 2 + i] << 24) >> 24);
  },
  encodeBlock(values, from, out, at) {
    const scale = Math.fround(Math.abs(largestOf(values, from, 32)) / 127);
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    putHalf(out, at, scale);
    for (let i = 0; i < 32; i++) {
      const scaled = Math.fround(values[from + i] * inverse);
      out[at + 2 + i] = Math.sign(scaled) * Math.floor(Math.abs(scaled) + 0.5); // halves go away from zero
    }
  },
});
