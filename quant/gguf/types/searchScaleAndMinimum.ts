import {nearestInteger} from './nearestInteger.ts';

const {fround} = Math;

/** What {@link searchScaleAndMinimum} tries. */
export interface ScaleSearch {
  /** The largest code; the smallest is 0. */
  levels: number;
  /** What is added to the number of levels in the first trial. */
  firstStep: number;
  /** Number of the last trial. Each adds a tenth of a level to the one before it. */
  lastTrial: number;
}

/** What {@link searchScaleAndMinimum} found: a value is about `scale · code − minimum`. */
export interface ScaleAndMinimum {
  scale: number;
  minimum: number;
}

/**
 * Finds the scale and the minimum with which codes from 0 come nearest to 32 values. An error is weighted by its
 * value's magnitude plus the root of the mean square. The codes first span the values' range; each trial takes codes
 * for a slightly different scale and solves for the best scale and minimum of these codes. Each operation is rounded to
 * float32 as in llama.cpp (`make_qkx2_quants`), so that the result is the same.
 *
 * @param codes receives the codes at `from` and after it
 */
export function searchScaleAndMinimum(
  values: Float32Array,
  first: number,
  {levels, firstStep, lastTrial}: ScaleSearch,
  codes: Uint8Array,
  from: number,
): ScaleAndMinimum {
  weigh(values, first);
  let least = values[first];
  let most = least;
  let weightSum = weights[0];
  let valueSum = fround(weightSum * least);
  for (let i = 1; i < 32; i++) {
    const value = values[first + i];
    if (value < least) least = value;
    if (value > most) most = value;
    weightSum = fround(weightSum + weights[i]);
    valueSum = fround(valueSum + fround(weights[i] * value));
  }
  if (least > 0) least = 0;
  if (most === least) {
    codes.fill(0, from, from + 32);
    return {scale: 0, minimum: -least};
  }
  let inverse = fround(levels / fround(most - least));
  let scale = fround(1 / inverse);
  for (let i = 0; i < 32; i++) trialCodes[i] = codeOf(values[first + i], inverse, least, levels);
  codes.set(trialCodes, from);
  let bestError = errorOf(values, first, scale, least);
  for (let trial = 0; trial <= lastTrial; trial++) {
    inverse = fround(fround(fround(firstStep + fround(TENTH * trial)) + levels) / fround(most - least));
    let codeSum = 0;
    let squareSum = 0;
    let productSum = 0;
    for (let i = 0; i < 32; i++) {
      const value = values[first + i];
      const code = codeOf(value, inverse, least, levels);
      trialCodes[i] = code;
      const weighted = fround(weights[i] * code);
      codeSum = fround(codeSum + weighted);
      squareSum = fround(squareSum + fround(weighted * code));
      productSum = fround(productSum + fround(weighted * value));
    }
    const determinant = fround(fround(weightSum * squareSum) - fround(codeSum * codeSum));
    if (!(determinant > 0)) continue;
    let trialScale = fround(
      fround(fround(weightSum * productSum) - fround(valueSum * codeSum)) / determinant,
    );
    let offset = fround(fround(fround(squareSum * valueSum) - fround(codeSum * productSum)) / determinant);
    if (offset > 0) {
      offset = 0;
      trialScale = fround(productSum / squareSum);
    }
    const error = errorOf(values, first, trialScale, offset);
    if (!(error < bestError)) continue;
    codes.set(trialCodes, from);
    bestError = error;
    scale = trialScale;
    least = offset; // the next trials' codes begin at this minimum, as in llama.cpp
  }
  return {scale, minimum: -least};
}

const TENTH = fround(0.1);
const weights = new Float32Array(32);
const trialCodes = new Uint8Array(32);

function weigh(values: Float32Array, first: number): void {
  let squares = 0;
  for (let i = first; i < first + 32; i++) squares = fround(squares + fround(values[i] * values[i]));
  const mean = fround(Math.sqrt(fround(squares / 32)));
  for (let i = 0; i < 32; i++) weights[i] = mean + Math.abs(values[first + i]);
}

function codeOf(value: number, inverse: number, least: number, levels: number): number {
  const code = nearestInteger(fround(inverse * fround(value - least)));
  return code < 0 ? 0 : code > levels ? levels : code;
}

/** Returns the weighted squared error of the trial's codes. */
function errorOf(values: Float32Array, first: number, scale: number, offset: number): number {
  let error = 0;
  for (let i = 0; i < 32; i++) {
    const difference = fround(fround(fround(scale * trialCodes[i]) + offset) - values[first + i]);
    error = fround(error + fround(weights[i] * fround(difference * difference)));
  }
  return error;
}
