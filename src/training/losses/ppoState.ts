/** Mean and variance of all scores so far. */
export interface Moments {
  mean: number;
  variance: number;
  count: number;
}

export const NO_SCORES: Moments = {mean: 0, variance: 1, count: 1e-24};

/** Adds scores to the moments of earlier ones, as TRL's `RunningMoments`. */
export function withScores({mean, variance, count}: Moments, scores: number[]): Moments {
  const added = scores.length;
  const addedMean = scores.reduce((sum, score) => sum + score, 0) / added;
  const total = count + added;
  const change = addedMean - mean;
  const addedSum = scores.reduce((sum, score) => sum + (score - addedMean) ** 2, 0);
  const sum = variance * count + (change ** 2 * count * added) / total + addedSum;
  return {mean: mean + (change * added) / total, variance: sum / total, count: total};
}

/** Machine epsilon of float32, which TRL adds to the deviation. */
const EPSILON = 2 ** -23;

/** Returns scores with the mean and the deviation of all so far taken out. */
export function normalizedScores({mean, variance, count}: Moments, scores: number[]): number[] {
  const deviation = Math.sqrt((variance * count) / Math.max(1, count - 1)) + EPSILON;
  return scores.map((score) => (score - mean) / deviation);
}

/**
 * Returns the weight of the divergence from the reference for the next step: larger after a divergence above the target,
 * smaller after one below (Ziegler et al. 2019).
 *
 * @param answers number of answers in the step
 */
export function adaptedCoefficient(
  coefficient: number,
  kl: number,
  answers: number,
  {target, horizon}: {target: number; horizon: number},
): number {
  const error = Math.min(0.2, Math.max(-0.2, kl / target - 1));
  return coefficient * (1 + (error * answers) / horizon);
}
