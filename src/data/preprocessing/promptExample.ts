import type {Tokenizer} from '../../../models/tokenizer.ts';
import type {EncodedConversation} from './encodeConversation.ts';

/** A prompt to answer, with the data's answer. */
export interface PromptExample {
  promptIds: number[];
  /** Token ids of the answer; empty when the data has none. Not needed to predict. */
  labelIds?: number[];
  /** Text of the prompt, including special tokens. */
  prompt: string;
  /** Text of the answer, without special tokens. */
  label: string;
}

/** Makes a prompt of a conversation that was encoded for the task `prompt`. */
export function promptExample(
  {inputIds, labels}: EncodedConversation,
  tokenizer: Tokenizer,
): Required<PromptExample> {
  return {
    promptIds: inputIds,
    labelIds: labels,
    prompt: tokenizer.decode(inputIds),
    label: tokenizer.decode(labels, {skipSpecialTokens: true}),
  };
}
