import {blockType} from '../ggmlType.ts';
import {halfAt, putHalf} from './halfAt.ts';
import {nearestInteger} from './nearestInteger.ts';
import {LEAST_MAGNITUDE, searchScale} from './searchScale.ts';

/**
 * 256 values in 16 groups of 16: 128 bytes of the four lower bits, 64 bytes of the two upper ones, 16 signed bytes of
 * scales s, d (float16). A value is `(d · s) · (q − 32)`.
 *
 * Of each half of 128 values, byte i of the lower bits has values i and 64 + i, and byte i of the upper ones has values
 * i, 32 + i, 64 + i and 96 + i.
 */
export const q6_k = blockType({
  id: 14,
  name: 'Q6_K',
  valuesPerBlock: 256,
  bytesPerBlock: 210,
  decodeBlock(bytes, at, out, to) {
    const d = halfAt(bytes, at + 208);
    for (let group = 0; group < 16; group++) {
      const scale = Math.fround(d * ((bytes[at + 192 + group] << 24) >> 24));
      const first = group * 16;
      const low = at + (first >> 7) * 64 + (first & 63);
      const lowShift = ((first >> 6) & 1) * 4;
      const high = at + 128 + (first >> 7) * 32 + (first & 31);
      const highShift = ((first >> 5) & 3) * 2;
      for (let i = 0; i < 16; i++) {
        const value = ((bytes[low + i] >> lowShift) & 15) | (((bytes[high + i] >> highShift) & 3) << 4);
        out[to + first + i] = scale * (value - 32);
      }
    }
  },
  encodeBlock(values, from, out, at) {
    let largest = 0;
    for (let group = 0; group < 16; group++) {
      scales[group] = searchScale(values, from + group * 16, codes, group * 16);
      if (Math.abs(scales[group]) > Math.abs(largest)) largest = scales[group];
    }
    out.fill(0, at, at + 210);
    if (Math.abs(largest) < LEAST_MAGNITUDE) return;
    const inverse = Math.fround(-128 / largest);
    putHalf(out, at + 208, Math.fround(1 / inverse));
    const d = halfAt(out, at + 208);
    for (let group = 0; group < 16; group++) {
      const scaleCode = Math.min(127, nearestInteger(Math.fround(inverse * scales[group])));
      out[at + 192 + group] = scaleCode;
      const scale = Math.fround(d * scaleCode);
      if (scale === 0) continue; // the search's codes stay; all give zero
      for (let i = group * 16; i < group * 16 + 16; i++)
        codes[i] = Math.max(-32, Math.min(31, nearestInteger(Math.fround(values[from + i] / scale)))) + 32;
    }
    for (let i = 0; i < 256; i++) {
      out[at + (i >> 7) * 64 + (i & 63)] |= (codes[i] & 15) << (((i >> 6) & 1) * 4);
      out[at + 128 + (i >> 7) * 32 + (i & 31)] |= (codes[i] >> 4) << (((i >> 5) & 3) * 2);
    }
  },
});

const scales = new Float32Array(16);
const codes = new Uint8Array(256);
