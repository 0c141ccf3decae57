import {type HubOptions, huggingFaceEnvironment} from '../../data/hub/hubOptions.ts';
import {resolveModelFolder} from '../../data/hub/resolveModelFolder.ts';
import {AutoModelForCausalLM} from '../../training/autoModelForCausalLM.ts';
import type {TrainableCausalLM} from '../../training/trainable.ts';
import {adapterFolder} from './adapterFolder.ts';
import {freezeLayers} from './freezeLayers.ts';
import type {Recipe} from './recipe.ts';

export interface OpenOptions {
  /** False: a model that knows its weights' shapes but has not read them. Default true. */
  allocate?: boolean;
  /** Told the share that is loaded. */
  onProgress?: (share: number) => void;
}

/** How the hub is reached: as the environment says (HF_TOKEN, HF_HOME …), and before it the recipe. */
export function hubOptions({hub: given}: Recipe): HubOptions {
  const {hub} = huggingFaceEnvironment(process.env);
  const {token = hub.token, cacheDir = hub.cacheDir} = given;
  return {...hub, token, cacheDir};
}

/** Where a model lies on this machine; one of the hub is downloaded. */
export function folderOf(nameOrPath: string, recipe: Recipe): Promise<string> {
  return resolveModelFolder(nameOrPath, {...hubOptions(recipe), revision: recipe.model.revision});
}

/**
 * Where an adapter lies on this machine; one of the hub is downloaded.
 *
 * @param key the key or option that names it
 */
export function adapterFolderOf(nameOrPath: string, recipe: Recipe, key?: string): Promise<string> {
  return adapterFolder(nameOrPath, {...hubOptions(recipe), revision: recipe.model.revision, key});
}

/** Loads a recipe's base, quantized where it says so. */
export async function openBase(
  recipe: Recipe,
  {allocate, onProgress}: OpenOptions = {},
): Promise<TrainableCausalLM> {
  const {nameOrPath, dtype, quantization, gradientCheckpointing} = recipe.model;
  const model = await AutoModelForCausalLM.fromPretrained(await folderOf(nameOrPath, recipe), {
    dtype,
    quantization,
    allocate,
    onProgress: ({loaded, total}) => onProgress?.(loaded / total),
  });
  model.gradientCheckpointing = gradientCheckpointing;
  return model;
}

/**
 * Makes what the recipe trains trainable and freezes the rest: a new adapter or a given one, all weights, or some
 * blocks.
 */
export async function applyMethod(model: TrainableCausalLM, recipe: Recipe): Promise<void> {
  const {
    method,
    freeze,
    lora,
    model: {nameOrPath, adapters, createNewAdapter},
  } = recipe;
  if (method === 'freeze') freezeLayers(model, freeze);
  if (method !== 'lora') return; // a model just loaded trains in full
  const isNew = createNewAdapter || adapters.length === 0;
  await useAdapters(model, recipe, {last: isNew ? 'merge' : 'train'});
  if (isNew) model.applyLoRA({...lora, baseModelNameOrPath: nameOrPath});
}

/**
 * Loads a recipe's adapters in their order. Those before the last are merged into the base, as LLaMA-Factory does; the
 * last is merged too, trained on, or kept beside it and frozen. With a model without memory they are checked; merging is
 * left out.
 */
export async function useAdapters(
  model: TrainableCausalLM,
  recipe: Recipe,
  {last}: {last: 'merge' | 'train' | 'keep'},
): Promise<void> {
  const {adapters} = recipe.model;
  const hasMemory = [...model.namedParameters().values()].every(({isAllocated}) => isAllocated);
  for (const [index, adapter] of adapters.entries()) {
    const isLast = index === adapters.length - 1;
    const isMerged = !isLast || last === 'merge';
    await model.loadAdapter(await adapterFolderOf(adapter, recipe), {trainable: isLast && last === 'train'});
    if (!isMerged) continue;
    if (hasMemory) model.fuseLoRA();
    else for (const name of model.adapterNames) model.deleteAdapter(name);
  }
}
