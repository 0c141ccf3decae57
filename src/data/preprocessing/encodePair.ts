import {IGNORE_INDEX} from '../../../models/ignoreIndex.ts';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import type {DatasetPlan} from '../datasets/datasetArgs.ts';
import type {Conversation} from '../templates/conversation.ts';
import {
  type EncodedConversation,
  type EncodeSettings,
  encodeConversation,
  encodeSettings,
} from './encodeConversation.ts';
import {truncatedLengths} from './truncatedLengths.ts';

/** Token ids and labels of both sides of a pair. */
export interface EncodedPair {
  chosen: EncodedConversation;
  rejected: EncodedConversation;
}

/** Returns the settings with which each side of a pair is encoded; both are cut together afterwards. */
export function pairSettings(plan: DatasetPlan): EncodeSettings {
  return {...encodeSettings(plan, 'prompt'), cutoffLength: Number.MAX_SAFE_INTEGER};
}

/** Returns the conversations that end with the chosen and with the rejected answer. */
export function sidesOf({rejected, ...chosen}: Conversation): [chosen: Conversation, rejected: Conversation] {
  return [chosen, {...chosen, response: rejected}];
}

/**
 * Joins both sides of a pair into an example, as LLaMA-Factory does: they share the prompt's cut, which leaves room for
 * the longer answer.
 *
 * @param chosen ids of the prompt, and as labels those of the answer
 */
export function joinSides(
  chosen: EncodedConversation,
  rejected: EncodedConversation,
  cutoffLength: number,
): EncodedPair {
  const longer = Math.max(chosen.labels.length, rejected.labels.length);
  const kept = truncatedLengths(chosen.inputIds.length, longer, cutoffLength);
  const prompt = chosen.inputIds.slice(0, kept.source);
  const side = ({labels}: EncodedConversation) => {
    const answer = labels.slice(0, kept.target);
    return {inputIds: [...prompt, ...answer], labels: [...prompt.map(() => IGNORE_INDEX), ...answer]};
  };
  return {chosen: side(chosen), rejected: side(rejected)};
}

/** Joins a prompt and its answer, encoded apart, into a row in which the answer is learned. */
export function joinAnswer(encoded: EncodedConversation, cutoffLength: number): EncodedConversation {
  return joinSides(encoded, encoded, cutoffLength).chosen;
}

/** Encodes a conversation with a chosen and a rejected answer as token ids. */
export function encodePair(conversation: Conversation, tokenizer: Tokenizer, plan: DatasetPlan): EncodedPair {
  const [chosen, rejected] = sidesOf(conversation).map((side) =>
    encodeConversation(side, tokenizer, pairSettings(plan)),
  );
  return joinSides(chosen, rejected, plan.cutoffLength);
}
