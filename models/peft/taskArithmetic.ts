/** Ways to add up the same tensor of several adapters; the names are PEFT's. */
export const ARITHMETICS = ['linear', 'ties', 'dare_linear', 'dare_ties', 'magnitude_prune'] as const;
export type Arithmetic = (typeof ARITHMETICS)[number];

/** How TIES elects the sign of an element: by the sum of the values, or by the number of values of each sign. */
export type MajoritySign = 'total' | 'frequency';

export interface ArithmeticOptions {
  arithmetic: Arithmetic;
  /** Share of the elements that stay, 0 < density ≤ 1. `linear` does not read it. */
  density: number;
  majoritySign: MajoritySign;
  /** Numbers from 0 to 1 for DARE's masks. */
  random: () => number;
}

/**
 * Returns the weighted sum of tensors of the same size, as `peft.utils.merge_utils` does: their smallest elements
 * (`ties`, `magnitude_prune`) or random ones (DARE, which divides the rest by `density`) become 0 first, and TIES
 * averages the elements that have the elected sign.
 */
export function taskArithmetic(
  tensors: Float32Array[],
  weights: number[],
  {arithmetic, density, majoritySign, random}: ArithmeticOptions,
): Float32Array {
  const isPruned = arithmetic !== 'linear' && density < 1;
  const isRandom = arithmetic.startsWith('dare');
  const kept = !isPruned
    ? tensors
    : tensors.map((values) =>
        isRandom ? dropRandom(values, density, random) : keepLargest(values, density),
      );
  const votes = arithmetic.endsWith('ties');
  return Float32Array.from({length: tensors[0].length}, (_, i) => {
    const sign = votes ? electedSign(kept, i, majoritySign) : 0;
    let sum = 0;
    let count = 0;
    for (const [j, values] of kept.entries()) {
      if (votes && Math.sign(values[i]) !== sign) continue;
      sum += weights[j] * values[i];
      count++;
    }
    return votes ? sum / Math.max(1, count) : sum;
  });
}

function electedSign(tensors: Float32Array[], i: number, method: MajoritySign): number {
  let sum = 0;
  for (const values of tensors) sum += method === 'total' ? values[i] : Math.sign(values[i]);
  return sum >= 0 ? 1 : -1;
}

/** Keeps the share `density` of the elements that are largest by magnitude; of equal ones, the first. */
function keepLargest(values: Float32Array, density: number): Float32Array {
  const count = Math.floor(density * values.length);
  const kept = new Float32Array(values.length);
  if (count === 0) return kept;
  const threshold = values.map(Math.abs).sort()[values.length - count];
  let equal = count;
  for (const value of values) if (Math.abs(value) > threshold) equal--;
  for (const [i, value] of values.entries()) {
    if (Math.abs(value) > threshold || (Math.abs(value) === threshold && equal-- > 0)) kept[i] = value;
  }
  return kept;
}

function dropRandom(values: Float32Array, density: number, random: () => number): Float32Array {
  return values.map((value) => (random() < density ? value / density : 0));
}
