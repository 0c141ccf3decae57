import type {GenerativeModel} from '../../../models/generation/generateOptions.ts';
import type {ChatMessage} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import type {ResolvedTemplate} from '../../data/templates/templateRegistry.ts';

/** Encodes messages as the ids of a prompt that ends where the assistant's turn begins. */
export interface ChatEncoder {
  (messages: ChatMessage[]): number[];
  /** The template of the prompt, if it is plain data from which another thread can make the same encoder. */
  readonly template?: ResolvedTemplate;
}

/**
 * Makes an encoder that uses the model's own chat template.
 *
 * @throws TfjsLoraError `UNSUPPORTED` when the model has no tokenizer or no chat template
 */
export function modelChatEncoder(model: Pick<GenerativeModel, 'tokenizer'>): ChatEncoder {
  if (typeof model !== 'object' || model === null) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `chat: expected a model, got ${show(model)}. Open a folder with await Llama.fromPretrained(folder).`,
    );
  }
  const {tokenizer} = model;
  if (tokenizer?.hasChatTemplate) {
    const encode = (messages: ChatMessage[]) => tokenizer.encodeChat(messages, {addGenerationPrompt: true});
    return Object.assign(encode, {template: {kind: 'chat', defaultSystem: '', dateString: ''} as const});
  }
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `chat: expected a model with a ${tokenizer ? 'chat template' : 'tokenizer'}, got one without. ` +
      (tokenizer
        ? 'Name a template (template: llama3 in a recipe, --template llama3), or use an instruction-tuned model.'
        : 'Load a folder that has tokenizer.json, or set model.tokenizer.'),
  );
}
