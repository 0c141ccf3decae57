import type {GenerativeModel} from '../../models/generation/generate.ts';
import type {ChatMessage} from '../../models/tokenizer.ts';
import {TfjsLoraError} from '../../quant/errors.ts';

/** The ids of a prompt that ends where the assistant's turn begins. */
export type ChatEncoder = (messages: ChatMessage[]) => number[];

/**
 * The chat template that came with the model.
 *
 * @throws TfjsLoraError `UNSUPPORTED` when the model has no tokenizer or no chat template
 */
export function modelChatEncoder({tokenizer}: Pick<GenerativeModel, 'tokenizer'>): ChatEncoder {
  if (tokenizer?.hasChatTemplate) {
    return (messages) => tokenizer.encodeChat(messages, {addGenerationPrompt: true});
  }
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `chat: expected a model with a ${tokenizer ? 'chat template' : 'tokenizer'}, got one without. ` +
      'Name a template (template: llama3 in a recipe, --template llama3), or use an instruction-tuned model.',
  );
}
