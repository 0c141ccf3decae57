/**
 * Returns the logarithm of a token's probability, and the likeliest tokens with theirs.
 *
 * @param logits `[vocab]`
 * @param count number of likeliest tokens; of equal ones, the lower ids come first
 */
export function likelihoodOf(logits: Float32Array, id: number, count: number) {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0);
  const logProbabilityOf = (each: number) => logits[each] - largest - Math.log(total);
  const likeliest: number[] = [];
  for (let each = 0; count > 0 && each < logits.length; each++) {
    if (likeliest.length === count && logits[each] <= logits[likeliest[count - 1]]) continue;
    let at = likeliest.length;
    while (at > 0 && logits[each] > logits[likeliest[at - 1]]) at--;
    likeliest.splice(at, 0, each);
    if (likeliest.length > count) likeliest.pop();
  }
  const alternatives = likeliest.map((each) => ({id: each, logProbability: logProbabilityOf(each)}));
  return {logProbability: logProbabilityOf(id), alternatives};
}
