import type {ResolvedGenerationConfig} from '../generationConfig.ts';

/**
 * Transformers' logits processors, the steps from a row of logits to the row that the next token is chosen from. Each
 * changes `scores` `[vocab]` in place; an excluded token becomes −∞.
 */

/** History of one row of the batch, as far as the processors need it. */
export interface RowHistory {
  /** Tokens of the prompt (without padding) and those generated so far. */
  ids: readonly number[];
  /** Number of generated tokens in `ids`. */
  newTokens: number;
}

/**
 * Runs the processors that the settings need, in the order of transformers: repetition penalty, minimum length, and
 * when sampling: temperature, top-k, top-p, min-p.
 */
export function processLogits(
  scores: Float32Array,
  {ids, newTokens}: RowHistory,
  config: ResolvedGenerationConfig,
): void {
  if (config.repetitionPenalty !== 1) penalizeRepetition(scores, ids, config.repetitionPenalty);
  if (newTokens < config.minNewTokens) suppressTokens(scores, config.eosTokenIds);
  if (!config.doSample) return;
  if (config.temperature !== 1) applyTemperature(scores, config.temperature);
  if (config.topK > 0) keepTopK(scores, config.topK);
  if (config.topP < 1) keepTopP(scores, config.topP);
  if (config.minP > 0) keepMinP(scores, config.minP);
}

/**
 * Makes every token of `ids` less likely, by the same amount however often it occurs: a positive logit is divided by
 * `penalty`, a negative one multiplied. Keskar et al. 2019 (CTRL).
 */
export function penalizeRepetition(scores: Float32Array, ids: Iterable<number>, penalty: number): void {
  const divisor = Math.fround(penalty);
  for (const id of new Set(ids)) {
    if (id < scores.length) scores[id] = scores[id] < 0 ? scores[id] * divisor : scores[id] / divisor;
  }
}

/** Excludes tokens. */
export function suppressTokens(scores: Float32Array, ids: Iterable<number>): void {
  for (const id of ids) if (id < scores.length) scores[id] = -Infinity;
}

/** Divides the logits by `temperature` > 0. */
export function applyTemperature(scores: Float32Array, temperature: number): void {
  const divisor = Math.fround(temperature);
  for (let i = 0; i < scores.length; i++) scores[i] /= divisor;
}

/** Keeps the `k` largest logits, and any that equal the smallest of them. */
export function keepTopK(scores: Float32Array, k: number): void {
  if (k >= scores.length) return;
  const threshold = scores.slice().sort()[scores.length - k];
  for (let i = 0; i < scores.length; i++) if (scores[i] < threshold) scores[i] = -Infinity;
}

/**
 * Keeps the smallest set of likeliest tokens, at least one, whose probabilities add up to `topP` or more. Of equal
 * tokens, the lower ids stay (transformers does not define this). Holtzman et al. 2019 (nucleus sampling).
 */
export function keepTopP(scores: Float32Array, topP: number): void {
  const ascending = scores.slice().sort();
  const largest = ascending[ascending.length - 1];
  const weights = Float64Array.from(ascending, (score) => Math.exp(score - largest));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  // Rounds to float32 where PyTorch rounds, so that a sum equal to the limit falls on the same side.
  const probabilities = Float32Array.from(weights, (weight) => weight / total);
  const limit = Math.fround(1 - topP);
  let first = 0; // index of the first token that stays
  let below = probabilities[0];
  while (first < ascending.length - 1 && Math.fround(below) <= limit) {
    first++;
    below += probabilities[first];
  }
  const threshold = ascending[first];
  let equalsToDrop = first - ascending.indexOf(threshold);
  for (let i = scores.length - 1; i >= 0; i--) {
    if (scores[i] < threshold || (scores[i] === threshold && equalsToDrop-- > 0)) scores[i] = -Infinity;
  }
}

/** Keeps the tokens that are at least `minP` times as likely as the likeliest. Nguyen et al. 2024. */
export function keepMinP(scores: Float32Array, minP: number): void {
  const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  for (let i = 0; i < scores.length; i++) {
    if (Math.exp(scores[i] - largest) < minP) scores[i] = -Infinity;
  }
}
