import seedrandom from 'seedrandom';
import {TfjsLoraError} from '../../quant/errors.ts';

/** Numbers in [0, 1). */
export type RandomSource = () => number;

/**
 * The random numbers of one row of a batch: David Bau's `seedrandom` (ARC4, 53-bit doubles), seeded with
 * `seed/row`, so that what a row draws depends on no other row.
 *
 * @param seed default: one drawn from `Math.random`
 */
export function createRandomSource(seed?: number | string, row = 0): RandomSource {
  return seedrandom(`${seed ?? Math.random()}/${row}`);
}

/** The index of the largest value; of equals, the first. */
export function argMax(scores: Float32Array): number {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i] > scores[best]) best = i;
  return best;
}

/** Draws an index with probability softmax(`scores`); −∞ is never drawn. */
export function sampleCategorical(scores: Float32Array, random: RandomSource): number {
  const likeliest = argMax(scores);
  const largest = scores[likeliest];
  if (largest === Infinity) return likeliest; // a tiny temperature leaves no other
  let total = 0;
  for (const score of scores) total += Math.exp(score - largest);
  let remaining = random() * total;
  let last = 0;
  for (let i = 0; i < scores.length; i++) {
    if (scores[i] === -Infinity) continue;
    last = i;
    remaining -= Math.exp(scores[i] - largest);
    if (remaining < 0) break;
  }
  return last; // rounding may leave a trace of `remaining` after the last token
}

/**
 * Checks a row of logits before a token is chosen from it.
 *
 * @throws TfjsLoraError `NON_FINITE` for NaN or infinity
 */
export function assertFiniteLogits(scores: Float32Array, row: number): void {
  const index = scores.findIndex((score) => !Number.isFinite(score));
  if (index === -1) return;
  throw notFinite(row, index, scores[index]);
}

/**
 * A token that `greedyChoice` chose for a row.
 *
 * @throws TfjsLoraError `NON_FINITE` where it says that a logit is NaN or infinite
 */
export function finiteChoice(choice: number, row: number): number {
  if (choice < 0) throw notFinite(row, -1 - choice, 'NaN or infinity');
  return choice;
}

function notFinite(row: number, token: number, got: number | string): TfjsLoraError {
  return new TfjsLoraError(
    'NON_FINITE',
    `logits of sequence ${row}, token ${token}: expected a finite number, got ${got}. ` +
      'The weights hold NaN or infinity, or overflow: check the files of the model and the adapter.',
  );
}
