import {IGNORE_INDEX} from '../../../models/ignoreIndex.ts';
import {type Example, labelsOf} from '../batches/collate.ts';

/** A token of an example, and whether it is learned. */
export interface LearnedToken {
  id: number;
  isLearned: boolean;
}

/** Lists an example's tokens. A label that is not the token itself comes before it, as a learned one. */
export function learnedTokens(example: Example): LearnedToken[] {
  const tokens: LearnedToken[] = [];
  const labels = labelsOf(example);
  for (const [t, id] of example.inputIds.entries()) {
    const label = t === 0 ? IGNORE_INDEX : labels[t]; // nothing comes before the first token to predict it from
    if (label !== IGNORE_INDEX && label !== id) tokens.push({id: label, isLearned: true});
    tokens.push({id, isLearned: label === id});
  }
  return tokens;
}
