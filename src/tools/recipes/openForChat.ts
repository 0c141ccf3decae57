import {basename, resolve} from 'node:path';
import type {GenerateOptions} from '../../../models/generation/generateOptions.ts';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {templateStopIds} from '../../data/templates/encodeTurns.ts';
import {resolveTemplate} from '../../data/templates/templateRegistry.ts';
import type {TrainableCausalLM} from '../../training/trainable.ts';
import {type ChatEncoder, modelChatEncoder} from '../chat/chatEncoder.ts';
import {templateChatEncoder} from '../chat/templateChatEncoder.ts';
import {assertThinking} from './assertThinking.ts';
import {adapterFolderOf, openBase} from './openModel.ts';
import type {Recipe} from './recipe.ts';

/** A model that is ready to chat. */
export interface ChatModel {
  model: TrainableCausalLM;
  encodeChat: ChatEncoder;
  /** The recipe's generation settings. */
  generation: GenerateOptions;
}

/**
 * Loads a recipe's model for chatting. The last adapter stays separate from the base, named after its folder and
 * active; those before it are merged. Answers also end at the template's stop words.
 */
export async function openForChat(recipe: Recipe, onProgress?: (share: number) => void): Promise<ChatModel> {
  const {template, defaultSystem, enableThinking, preserveThinking} = recipe.data;
  const model = await openBase(recipe, {onProgress});
  try {
    const {tokenizer} = model;
    if (tokenizer === undefined) modelChatEncoder(model); // throws an error that names what is missing
    assertThinking(recipe, tokenizer as Tokenizer);
    const encodeChat = templateChatEncoder(tokenizer as Tokenizer, template, {
      defaultSystem,
      enableThinking,
      preserveThinking,
    });
    const {adapters} = recipe.model;
    for (const [index, adapter] of adapters.entries()) {
      const folder = await adapterFolderOf(adapter, recipe);
      const isLast = index === adapters.length - 1;
      await model.loadAdapter(folder, isLast ? {adapterName: adapterNameOf(folder, [])} : {});
      if (!isLast) model.fuseLoRA();
    }
    const ends = [model.generationConfig.eosTokenId ?? []].flat();
    const stops = templateStopIds(resolveTemplate(template, tokenizer as Tokenizer), tokenizer as Tokenizer);
    model.generationConfig = {...model.generationConfig, eosTokenId: [...new Set([...ends, ...stops])]};
    const {skipSpecialTokens: _, ...generation} = recipe.generation;
    return {model, encodeChat, generation};
  } catch (error) {
    model.dispose();
    throw error;
  }
}

/**
 * Loads further adapters under their names without activating them.
 *
 * @param entries `name=folder`, or a folder, after which the adapter is then named; names on the hub also work as
 *   folders
 */
export async function loadNamedAdapters(
  model: TrainableCausalLM,
  entries: readonly string[],
  recipe: Recipe,
): Promise<void> {
  const active = model.activeAdapters;
  for (const entry of entries) {
    const [, name, source] = /^(?:([\w-]+)=)?(.+)$/s.exec(entry) ?? [];
    if (source === undefined) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `--adapter ${entry}: expected name=folder or a folder, got neither`,
      );
    }
    const folder = await adapterFolderOf(source, recipe, '--adapter');
    await model.loadAdapter(folder, {adapterName: name ?? adapterNameOf(folder, model.adapterNames)});
  }
  if (entries.length > 0) model.setAdapter(active);
}

/** Names an adapter after its folder, without characters that adapter names cannot have, and unlike the taken names. */
export function adapterNameOf(folder: string, taken: readonly string[]): string {
  const name = basename(resolve(folder)).replace(/[^\w-]+/g, '-') || 'adapter';
  let free = name;
  for (let count = 2; taken.includes(free); count++) free = `${name}-${count}`;
  return free;
}
