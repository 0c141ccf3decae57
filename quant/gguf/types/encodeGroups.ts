import {halfAt, putHalf} from './halfAt.ts';
import {nearestInteger} from './nearestInteger.ts';
import {type ScaleSearch, searchScaleAndMinimum} from './searchScaleAndMinimum.ts';
import {minimumAt, putScaleAndMinimum, scaleAt} from './sixBitScales.ts';

const {fround} = Math;
const scales = new Float32Array(8);
const minima = new Float32Array(8);
const codes = new Uint8Array(256);

/**
 * Encodes the part that `q4_k` and `q5_k` share: writes d, dmin, scales and minima, the first 16 bytes of a block, and
 * returns the codes of the 256 values, until the next call.
 */
export function encodeGroups(
  values: Float32Array,
  from: number,
  search: ScaleSearch,
  out: Uint8Array,
  at: number,
): Uint8Array {
  let [mostScale, mostMinimum] = [0, 0];
  for (let group = 0; group < 8; group++) {
    const {scale, minimum} = searchScaleAndMinimum(values, from + group * 32, search, codes, group * 32);
    scales[group] = scale;
    minima[group] = minimum;
    if (scale > mostScale) mostScale = scale;
    if (minimum > mostMinimum) mostMinimum = minimum;
  }
  putHalf(out, at, fround(mostScale / 63));
  putHalf(out, at + 2, fround(mostMinimum / 63));
  const inverseScale = mostScale > 0 ? fround(63 / mostScale) : 0;
  const inverseMinimum = mostMinimum > 0 ? fround(63 / mostMinimum) : 0;
  for (let group = 0; group < 8; group++) {
    const scale = inSixBits(inverseScale * scales[group]);
    putScaleAndMinimum(out, at + 4, group, scale, inSixBits(inverseMinimum * minima[group]));
  }
  const [d, dmin] = [halfAt(out, at), halfAt(out, at + 2)];
  for (let group = 0; group < 8; group++) {
    const scale = fround(d * scaleAt(out, at + 4, group));
    const minimum = fround(dmin * minimumAt(out, at + 4, group));
    if (scale === 0) continue; // the search's codes stay; all give the minimum
    for (let i = group * 32; i < group * 32 + 32; i++) {
      const code = nearestInteger(fround(fround(values[from + i] + minimum) / scale));
      codes[i] = Math.max(0, Math.min(search.levels, code));
    }
  }
  return codes;
}

const inSixBits = (value: number): number => Math.min(63, nearestInteger(fround(value)) & 255);
