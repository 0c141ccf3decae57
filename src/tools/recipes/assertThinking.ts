import type {Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {MODEL_TEMPLATE} from '../../data/templates/templateRegistry.ts';
import {writesThoughts} from '../../data/templates/thoughts.ts';
import type {Recipe} from './recipe.ts';

/**
 * Refuses to turn thinking off, or to keep it in earlier turns, when that would change the data: with the chat template
 * of a reasoning model. As in LLaMA-Factory, a template is one of those if its answers contain `<think>`.
 *
 * @throws TfjsLoraError `UNSUPPORTED`
 */
export function assertThinking({data, path}: Recipe, tokenizer: Tokenizer): void {
  const isModels = (data.template ?? MODEL_TEMPLATE) === MODEL_TEMPLATE && tokenizer.hasChatTemplate;
  if (!isModels || (data.enableThinking && !data.preserveThinking)) return;
  if (!writesThoughts(tokenizer)) return;
  const [key, got] = data.enableThinking ? ['preserve_thinking', true] : ['enable_thinking', false];
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${path} ${key}: expected ${!got} under this model's chat template, which writes <think>, got ${got}. ` +
      'Remove the key, or choose a template by name.',
  );
}
