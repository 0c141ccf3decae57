import type {Conversation} from '../templates/conversation.ts';

/** Number of records among which answers are exchanged: LLaMA-Factory's `preprocessing_batch_size`. */
export const EXCHANGED_TOGETHER = 1000;

/**
 * Returns each conversation, and after it the same with the answer of the one before; the first gets the last one's. So
 * LLaMA-Factory makes the mismatched answers of KTO. Conversations that cannot be used take no part.
 */
export function exchangeAnswers(conversations: readonly Conversation[]): Conversation[] {
  let before = conversations.findLast(({fault}) => fault === undefined);
  return conversations.flatMap((conversation) => {
    if (conversation.fault !== undefined) return [conversation, conversation];
    const mismatched = {...conversation, response: before!.response};
    before = conversation;
    return [conversation, mismatched];
  });
}
