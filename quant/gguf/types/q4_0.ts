import {blockType} from '../ggmlType.ts';
import {halfAt, putHalf} from './halfAt.ts';
import {largestOf} from './largestOf.ts';

/**
 * 32 values: scale d (float16), 16 bytes. Byte i has value i in its low four bits and value i + 16 in its high ones.
 * A value is `d · (q − 8)`.
 */
export const q4_0 = blockType({
  id: 2,
  name: 'Q4_0',
  valuesPerBlock: 32,
  bytesPerBlock: 18,
  decodeBlock(bytes, at, out, to) {
    const scale = halfAt(bytes, at);
    for (let i = 0; i < 16; i++) {
      const pair = bytes[at + 2 + i];
      out[to + i] = scale * ((pair & 15) - 8);
      out[to + 16 + i] = scale * ((pair >> 4) - 8);
    }
  },
  encodeBlock(values, from, out, at) {
    const scale = Math.fround(largestOf(values, from, 32) / -8);
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    putHalf(out, at, scale);
    const code = (value: number) => Math.min(15, Math.trunc(Math.fround(Math.fround(value * inverse) + 8.5)));
    for (let i = 0; i < 16; i++)
      out[at + 2 + i] = code(values[from + i]) | (code(values[from + 16 + i]) << 4);
  },
});
