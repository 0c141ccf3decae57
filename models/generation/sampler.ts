import seedrandom from 'seedrandom';
import {TfjsLoraError} from '../../quant/errors.ts';

/** Returns random numbers in [0, 1). */
export type RandomSource = () => number;

/**
 * Creates the random numbers of one row of a batch: David Bau's `seedrandom` (ARC4, 53-bit doubles), seeded with
 * `seed/row`, so that a row's numbers do not depend on other rows.
 *
 * @param seed seed of the whole batch, by default one from `Math.random`
 */
export function createRandomSource(seed?: number | string, row = 0): RandomSource {
  return seedrandom(`${seed ?? Math.random()}/${row}`);
}

/** Returns the index of the largest value, the first one among equals. */
export function argMax(scores: Float32Array): number {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i] > scores[best]) best = i;
  return best;
}

/** Draws an index with probability softmax(`scores`); −∞ is never drawn. */
export function sampleCategorical(scores: Float32Array, random: RandomSource): number {
  const likeliest = argMax(scores);
  const largest = scores[likeliest];
  if (largest === Infinity) return likeliest; // a tiny temperature leaves no other token
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
  return last; // rounding may leave some of `remaining` after the last token
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
 * Returns the token that `greedyChoice` chose for a row.
 *
 * @throws TfjsLoraError `NON_FINITE` when the choice reports a logit that is NaN or infinite
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
