import {largestOf} from './largestOf.ts';
import {nearestInteger} from './nearestInteger.ts';

const {fround} = Math;

/** Groups whose largest magnitude is below this count as zeros. */
export const LEAST_MAGNITUDE = fround(1e-15);

/**
 * Finds the scale with which codes from −32 to 31 come nearest to 16 values, each error weighted by its value's square.
 * It tries 19 scales around the one that maps the largest value to −32. Each operation is rounded to float32 as in
 * llama.cpp (`make_qx_quants` with `rmse_type` 1), so that the result is the same.
 *
 * @param codes receives the codes plus 32 at `from` and after it
 * @returns the scale; 0 for values that are nearly zero
 */
export function searchScale(values: Float32Array, first: number, codes: Uint8Array, from: number): number {
  const largest = largestOf(values, first, 16);
  if (Math.abs(largest) < LEAST_MAGNITUDE) {
    codes.fill(0, from, from + 16);
    return 0;
  }
  let scale = 0;
  let best = 0;
  for (let trial = 0; trial < TRIALS.length; trial++) {
    const inverse = fround(-fround(32 + fround(TENTH * TRIALS[trial])) / largest);
    let product = 0;
    let square = 0;
    for (let i = 0; i < 16; i++) {
      const value = values[first + i];
      const code = Math.max(-32, Math.min(31, nearestInteger(fround(inverse * value))));
      const weight = fround(value * value);
      trialCodes[i] = code + 32;
      product = fround(product + fround(fround(weight * value) * code));
      square = fround(square + fround(fround(weight * code) * code));
    }
    if (trial > 0 && !(square > 0 && fround(product * product) > fround(best * square))) continue;
    codes.set(trialCodes, from);
    scale = square === 0 ? 0 : fround(product / square);
    best = fround(scale * product);
  }
  return scale;
}

const TENTH = fround(0.1);
/** Tenths of a level that the largest value's code moves by: none first. */
const TRIALS = [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const trialCodes = new Uint8Array(16);
