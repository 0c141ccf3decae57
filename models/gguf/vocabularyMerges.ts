/**
 * Returns the merges of a byte pair encoding that splits words as SentencePiece does with these scores: each way to put
 * a token together from two others, those of the highest score first. The order is that of transformers
 * (`generate_merges` in `tokenization_utils_base.py`).
 *
 * @param vocab ids by token, in the order of the ids
 * @param scores by id
 */
export function vocabularyMerges(
  vocab: ReadonlyMap<string, number>,
  scores: readonly number[],
): [left: string, right: string][] {
  const merges: {left: string; right: string; score: number; lengths: [number, number]}[] = [];
  for (const [token, id] of vocab) {
    const letters = [...token]; // Python counts code points
    const ways: {left: string; right: string; ids: [number, number]; lengths: [number, number]}[] = [];
    let left = '';
    for (let i = 1; i < letters.length; i++) {
      left += letters[i - 1];
      const right = token.slice(left.length);
      const [leftId, rightId] = [vocab.get(left), vocab.get(right)];
      if (leftId === undefined || rightId === undefined) continue;
      ways.push({left, right, ids: [leftId, rightId], lengths: [i, letters.length - i]});
    }
    ways.sort((a, b) => a.ids[0] - b.ids[0] || a.ids[1] - b.ids[1]);
    for (const {left, right, lengths} of ways) merges.push({left, right, score: scores[id], lengths});
  }
  merges.sort((a, b) => b.score - a.score || b.lengths[0] - a.lengths[0] || b.lengths[1] - a.lengths[1]);
  return merges.map(({left, right}) => [left, right]);
}
