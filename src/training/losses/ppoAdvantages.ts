/** An answer, with what models say of its tokens: `−log p` when it was given and in the reference, and values. */
export interface RatedAnswer {
  old: ArrayLike<number>;
  reference: ArrayLike<number>;
  values: ArrayLike<number>;
  /** Score of the whole answer. */
  score: number;
  /** Positions of padding behind the answer. */
  padding: number;
}

export interface PpoSettings {
  /** Discount of later rewards. */
  gamma: number;
  /** Discount of later differences in generalized advantage estimation. */
  lambda: number;
  /** Whether rewards are divided by their deviation first. */
  whitenRewards: boolean;
}

/** Advantages and returns of each token, by answer. */
export interface PpoAdvantages {
  advantages: number[][];
  returns: number[][];
  /** Mean over answers of the divergence from the reference. */
  kl: number;
  /** Mean over tokens of the reward for staying near the reference. */
  nonScoreReward: number;
}

/**
 * Rewards each token for its distance to the reference, the last one also for the answer's score, and estimates
 * advantages, which are whitened over all answers: `compute_rewards` and `compute_advantages` of TRL 0.9's `PPOTrainer`.
 *
 * @param klCoefficient weight of the distance
 */
export function ppoAdvantages(
  answers: RatedAnswer[],
  klCoefficient: number,
  {gamma, lambda, whitenRewards}: PpoSettings,
): PpoAdvantages {
  const kls = answers.map(({old, reference}) => Array.from(old, (loss, t) => reference[t] - loss));
  const raw = kls.map((row, i) =>
    row.map((kl, t) => -klCoefficient * kl + (t === row.length - 1 ? answers[i].score : 0)),
  );
  const scale = whitenRewards ? whitening(raw.flat(), false) : (reward: number) => reward;
  const padded = scale(0); // in TRL, the padding behind an answer has the whitened reward of nothing
  const estimates = raw.map((row, i) => {
    const {values, padding} = answers[i];
    let advantage = 0;
    for (let t = 0; t < padding; t++) advantage = padded + gamma * lambda * advantage;
    const advantages = new Array<number>(row.length);
    for (let t = row.length - 1; t >= 0; t--) {
      const next = t + 1 < row.length ? values[t + 1] : 0;
      advantage = scale(row[t]) + gamma * next - values[t] + gamma * lambda * advantage;
      advantages[t] = advantage;
    }
    return advantages;
  });
  const whiten = whitening(estimates.flat(), true);
  const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
  const tokens = kls.flat();
  return {
    advantages: estimates.map((row) => row.map(whiten)),
    returns: estimates.map((row, i) => row.map((advantage, t) => advantage + answers[i].values[t])),
    kl: sum(tokens) / answers.length,
    nonScoreReward: (-klCoefficient * sum(tokens)) / tokens.length,
  };
}

/** Returns a function that gives values a deviation of 1 and, if `shifts`, a mean of 0. */
function whitening(values: number[], shifts: boolean): (value: number) => number {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance =
    values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / Math.max(1, values.length - 1);
  const scale = 1 / Math.sqrt(variance + 1e-8);
  return (value) => (value - mean) * scale + (shifts ? 0 : mean);
}
