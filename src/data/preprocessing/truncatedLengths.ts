/**
 * Returns how many tokens of a prompt and an answer to keep, as LLaMA-Factory divides `cutoff` between them. The prompt
 * is cut when the answer is short, the answer when the prompt is short, otherwise both in proportion.
 */
export function truncatedLengths(
  source: number,
  target: number,
  cutoff: number,
): {source: number; target: number} {
  const targetBudget =
    2 * target < cutoff
      ? cutoff
      : 2 * source < cutoff
        ? cutoff - source
        : Math.trunc(cutoff * (target / (source + target)));
  const keptTarget = Math.min(targetBudget, target);
  return {source: Math.min(Math.max(cutoff - keptTarget, 0), source), target: keptTarget};
}
