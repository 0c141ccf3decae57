import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {readJson} from '../../../models/jsonFile.ts';
import {VALUE_HEAD_FILE} from '../../../models/valueHeadFile.ts';
import {warn} from '../../../quant/warn.ts';
import {type HubOptions, huggingFaceEnvironment} from '../../data/hub/hubOptions.ts';
import {resolveModelFolder} from '../../data/hub/resolveModelFolder.ts';
import {AutoModelForCausalLM} from '../../training/autoModelForCausalLM.ts';
import type {TrainableCausalLM} from '../../training/trainable.ts';
import {adapterFolder} from './adapterFolder.ts';
import {freezeLayers} from './freezeLayers.ts';
import type {Recipe} from './recipe.ts';

export interface OpenOptions {
  /** Whether to read the weights. If false, the model only knows their shapes. Default true. */
  allocate?: boolean;
  /** Called with the share that is loaded, from 0 to 1. */
  onProgress?: (share: number) => void;
  signal?: AbortSignal;
}

/** Returns the settings for the hub. The recipe's override the environment's (HF_TOKEN, HF_HOME …). */
export function hubOptions({hub: given}: Recipe): HubOptions {
  const {hub} = huggingFaceEnvironment(process.env);
  const {token = hub.token, cacheDir = hub.cacheDir} = given;
  return {...hub, token, cacheDir};
}

/** Returns the local folder of a model, which is downloaded if it is on the hub. */
export function folderOf(nameOrPath: string, recipe: Recipe, signal?: AbortSignal): Promise<string> {
  return resolveModelFolder(nameOrPath, {...hubOptions(recipe), revision: recipe.model.revision, signal});
}

/**
 * Returns the local folder of an adapter, which is downloaded if it is on the hub.
 *
 * @param key key or option that names it, for messages. Default `adapter_name_or_path`
 */
export function adapterFolderOf(nameOrPath: string, recipe: Recipe, key?: string): Promise<string> {
  return adapterFolder(nameOrPath, {...hubOptions(recipe), revision: recipe.model.revision, key});
}

/**
 * Returns a recipe's quantization for a model's folder: none, with a warning, for one that GPTQ or the like quantized, as
 * in LLaMA-Factory.
 */
async function quantizationFor(
  folder: string,
  {quantization}: Recipe['model'],
): Promise<typeof quantization> {
  if (!quantization) return undefined;
  const path = join(folder, 'config.json');
  const config = existsSync(path) ? await readJson(path) : {};
  const method = (config.quantization_config as {quant_method?: unknown} | null | undefined)?.quant_method;
  if (method === undefined || method === 'bitsandbytes' || method === quantization.type) return quantization;
  warn(`${path}: the model is quantized with ${method} and is loaded as it is, ignoring quantization_bit`);
  return undefined;
}

/** Loads a recipe's base model, quantized if the recipe says so. */
export async function openBase(
  recipe: Recipe,
  {allocate, onProgress, signal}: OpenOptions = {},
): Promise<TrainableCausalLM> {
  const {nameOrPath, dtype, gradientCheckpointing} = recipe.model;
  const folder = await folderOf(nameOrPath, recipe, signal);
  const model = await AutoModelForCausalLM.fromPretrained(folder, {
    dtype,
    quantization: await quantizationFor(folder, recipe.model),
    allocate,
    signal,
    onProgress: ({loaded, total}) => onProgress?.(loaded / total),
  });
  model.gradientCheckpointing = gradientCheckpointing;
  growVocabulary(model, recipe);
  return model;
}

/** Whether a recipe gives the model rows for tokens that it lacks, as LLaMA-Factory decides it. */
const growsVocabulary = ({vocabulary: {tokens, specialTokens, resize}}: Recipe): boolean =>
  resize || tokens.length > 0 || specialTokens.length > 0;

/** Adds a recipe's tokens, and draws rows for those that the model lacks as LLaMA-Factory does. */
function growVocabulary(model: TrainableCausalLM, recipe: Recipe): void {
  if (!growsVocabulary(recipe)) return;
  const {tokens, specialTokens} = recipe.vocabulary;
  const options = {newRows: 'noise', padToMultipleOf: 64, seed: recipe.lora.seed} as const;
  model.addTokens(tokens, options).addTokens(specialTokens, {...options, special: true});
}

/**
 * Prepares the model for the recipe's method: what it trains becomes trainable (a new adapter or a given one, all
 * weights, or some blocks), and the rest is frozen.
 */
export async function applyMethod(
  model: TrainableCausalLM,
  recipe: Recipe,
  {signal}: {signal?: AbortSignal} = {},
): Promise<void> {
  const {
    method,
    freeze,
    lora,
    pissa,
    data,
    model: {nameOrPath, adapters, createNewAdapter, neftuneNoiseAlpha},
  } = recipe;
  model.neftuneNoiseAlpha = neftuneNoiseAlpha;
  if (method === 'freeze') freezeLayers(model, freeze);
  if (method === 'lora') {
    const isNew = createNewAdapter || adapters.length === 0;
    await useAdapters(model, recipe, {last: isNew ? 'merge' : 'train'});
    if (isNew) {
      const modulesToSave =
        lora.modulesToSave ?? (growsVocabulary(recipe) ? ['embed_tokens', 'lm_head'] : undefined);
      model.applyLoRA({...lora, modulesToSave, baseModelNameOrPath: nameOrPath});
      if (pissa.init && hasMemory(model)) await model.initializeLoRA({method: pissaMethod(pissa), signal});
    }
  } // otherwise, all weights of a newly loaded model are trainable
  if (data.stage === 'rm' || data.stage === 'ppo') await useValueHead(model, recipe, {trainable: true});
}

const hasMemory = (model: TrainableCausalLM): boolean =>
  [...model.namedParameters().values()].every(({isAllocated}) => isAllocated);

const pissaMethod = ({iterations}: Recipe['pissa']) =>
  iterations === -1 ? ('pissa' as const) : (`pissa_niter_${iterations}` as const);

/**
 * Gives a recipe's reward model its value head: that of the last adapter's folder, or without adapters of the model's,
 * as in LLaMA-Factory. A model to train without one gets a new head.
 *
 * @throws TfjsLoraError `FILE_NOT_FOUND` for a model to use that has none
 */
export async function useValueHead(
  model: TrainableCausalLM,
  recipe: Recipe,
  {trainable}: {trainable: boolean},
): Promise<void> {
  const {nameOrPath, adapters} = recipe.model;
  const last = adapters.at(-1);
  const folder =
    last === undefined ? await folderOf(nameOrPath, recipe) : await adapterFolderOf(last, recipe);
  if (trainable && !existsSync(join(folder, VALUE_HEAD_FILE))) model.addValueHead({seed: recipe.lora.seed});
  else await model.loadValueHead(folder, {trainable});
}

/**
 * Loads a recipe's adapters in order. Those before the last are merged into the base, as in LLaMA-Factory; the last one
 * is merged too, becomes trainable, or stays separate and frozen. In a model without allocated weights, the adapters
 * are checked but not merged.
 */
export async function useAdapters(
  model: TrainableCausalLM,
  recipe: Recipe,
  {last}: {last: 'merge' | 'train' | 'keep'},
): Promise<void> {
  const {adapters} = recipe.model;
  for (const [index, adapter] of adapters.entries()) {
    const isLast = index === adapters.length - 1;
    const isMerged = !isLast || last === 'merge';
    await model.loadAdapter(await adapterFolderOf(adapter, recipe), {trainable: isLast && last === 'train'});
    if (!isMerged) continue;
    if (hasMemory(model)) model.fuseLoRA();
    else for (const name of model.adapterNames) model.deleteAdapter(name);
  }
}

/** Prepares a recipe's model for evaluation and prediction without training. */
export async function useModel(model: TrainableCausalLM, recipe: Recipe): Promise<void> {
  await useAdapters(model, recipe, {last: 'keep'});
  if (recipe.data.stage === 'rm') await useValueHead(model, recipe, {trainable: false});
}
