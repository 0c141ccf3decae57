/** What the rewards of a group of answers are divided by: the deviation of their group or of all groups, or nothing. */
export type RewardScale = 'group' | 'batch' | 'none';

/** Added to the deviation, as in TRL. */
const EPSILON = 1e-4;

/** Rewards of answers, and how much each answer is better than the others to its prompt. */
export interface GroupAdvantages {
  /** Weighted sum of each answer's rewards. */
  rewards: number[];
  advantages: number[];
  /** TRL's metrics: mean reward, mean deviation, and the share of groups whose answers earned the same. */
  reward: number;
  rewardStd: number;
  withoutStd: number;
}

/**
 * Compares the rewards of answers with those of the other answers to the same prompt, as TRL's `GRPOTrainer`.
 *
 * @param rewards of each answer, by function; null where a function does not apply
 * @param weights of the functions
 * @param size answers to a prompt
 */
export function groupAdvantages(
  rewards: readonly (readonly (number | null)[])[],
  weights: readonly number[],
  size: number,
  scale: RewardScale,
): GroupAdvantages {
  const sums = rewards.map((row) =>
    row.reduce<number>((sum, reward, k) => sum + weights[k] * (reward ?? 0), 0),
  );
  const groups = Array.from({length: sums.length / size}, (_, g) => sums.slice(g * size, (g + 1) * size));
  const all = standardDeviation(sums);
  const deviations = groups.map((group) => (scale === 'batch' ? all : standardDeviation(group)));
  const advantages = groups.flatMap((group, g) => {
    const center = mean(group);
    return group.map((reward) => (reward - center) / (scale === 'none' ? 1 : deviations[g] + EPSILON));
  });
  return {
    rewards: sums,
    advantages,
    reward: mean(sums),
    rewardStd: mean(deviations),
    withoutStd: mean(deviations.map((deviation) => Number(deviation < 1e-8))),
  };
}

/** Returns the mean; NaN for no values. */
export const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

/** Returns the standard deviation of a sample (n − 1). */
export function standardDeviation(values: readonly number[]): number {
  const center = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - center) ** 2, 0) / (values.length - 1));
}
