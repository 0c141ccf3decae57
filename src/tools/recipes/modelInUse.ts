import {readdir} from 'node:fs/promises';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {newestAdapterCheckpoint} from './adapterFolder.ts';
import type {Recipe} from './recipe.ts';

/** What a finished training leaves: an adapter, or the whole model. */
const TRAINED = {adapter: 'adapter_config.json', model: 'config.json'};

/**
 * The recipe with the model it stands for where that is scored, exported or talked to. A recipe that trains means what it
 * trained: the adapter in its `output_dir`, over those it merged first, or the whole model there. Any other means the
 * model and adapters it names, and so do adapters named as an argument.
 *
 * @throws TfjsLoraError `INVALID_CONFIG` where a recipe that trains has not done so
 */
export async function modelInUse(recipe: Recipe): Promise<Recipe> {
  const isNamed = recipe.model.adaptersAreArgument && recipe.model.adapters.length > 0;
  return recipe.tasks.train && !isNamed ? await trainedRecipe(recipe) : recipe;
}

/** A recipe's model for a terminal: `Llama-3.2-1B with adapter saves/lora`. */
export function describeModel({model}: Recipe): string {
  const {nameOrPath, adapters} = model;
  if (adapters.length === 0) return `${nameOrPath}, without an adapter`;
  return `${nameOrPath} with adapter${adapters.length > 1 ? 's' : ''} ${adapters.join(' and ')}`;
}

/** The recipe with the model that its training leaves. */
export async function trainedRecipe(recipe: Recipe): Promise<Recipe> {
  const {model, method, path} = recipe;
  const {outputDir: folder} = recipe.fit;
  const kind = method === 'lora' ? 'adapter' : 'model';
  const names = folder === undefined ? [] : await namesIn(folder);
  // A run that begins again leaves the weights of the one before until it has its own.
  const isRunning =
    names.some((name) => /^checkpoint-\d+$/.test(name)) && !names.includes('train_results.json');
  if (folder === undefined || isRunning || !names.includes(TRAINED[kind])) {
    const checkpoint = isRunning && kind === 'adapter' ? newestAdapterCheckpoint(folder!) : undefined;
    const got = isRunning ? 'checkpoints of an unfinished run' : 'none';
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${path} output_dir: expected the ${kind} that this recipe trains in ${folder ?? 'a folder'}, got ${got}. ` +
        `Train first, or choose what to use: adapter_name_or_path=${checkpoint ?? '<folder>'}, or do_train=false for the model without an adapter.`,
    );
  }
  if (method !== 'lora') return {...recipe, model: {...model, nameOrPath: folder}};
  const merged = model.createNewAdapter ? model.adapters : model.adapters.slice(0, -1);
  return {...recipe, model: {...model, adapters: [...merged, folder]}};
}

const namesIn = (folder: string) => readdir(folder).catch(() => [] as string[]);
