import {readdir} from 'node:fs/promises';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {newestAdapterCheckpoint} from './adapterFolder.ts';
import type {Recipe} from './recipe.ts';

/** The file that a finished training leaves, for an adapter and for a whole model. */
const TRAINED = {adapter: 'adapter_config.json', model: 'config.json'};

/**
 * Returns the recipe with the model that it means when scored, exported or chatted with. A recipe that trains means the
 * result: the adapter in its `output_dir`, on top of those it merged first, or the whole model there. A recipe that
 * does not train means the model and adapters it names; so does one whose adapters are given as an argument.
 *
 * @throws TfjsLoraError `INVALID_CONFIG` when the recipe trains and has not been run to its end
 */
export async function modelInUse(recipe: Recipe): Promise<Recipe> {
  const isNamed = recipe.model.adaptersAreArgument && recipe.model.adapters.length > 0;
  return recipe.tasks.train && !isNamed ? await trainedRecipe(recipe) : recipe;
}

/** Describes a recipe's model for a terminal: `Llama-3.2-1B with adapter saves/lora`. */
export function describeModel({model}: Recipe): string {
  const {nameOrPath, adapters} = model;
  if (adapters.length === 0) return `${nameOrPath}, without an adapter`;
  return `${nameOrPath} with adapter${adapters.length > 1 ? 's' : ''} ${adapters.join(' and ')}`;
}

/** Returns the recipe with the model that its training produced. */
export async function trainedRecipe(recipe: Recipe): Promise<Recipe> {
  const {model, method, path} = recipe;
  const {outputDir: folder} = recipe.fit;
  const kind = method === 'lora' ? 'adapter' : 'model';
  const names = folder === undefined ? [] : await namesIn(folder);
  // A run that starts over keeps the earlier run's weights until it has its own.
  const isRunning =
    names.some((name) => /^checkpoint-\d+$/.test(name)) && !names.includes('train_results.json');
  if (folder === undefined || isRunning || !names.includes(TRAINED[kind])) {
    const checkpoint = isRunning && kind === 'adapter' ? await newestAdapterCheckpoint(folder!) : undefined;
    const got = isRunning ? 'checkpoints of an unfinished run' : 'none';
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${path} output_dir: expected the ${kind} that this recipe trains in ${folder ?? 'a folder'}, got ${got}. ` +
        `Train first, or choose what to use: adapter_name_or_path=${checkpoint ?? '<folder>'}, ` +
        'or do_train=false for the model without an adapter.',
    );
  }
  if (method !== 'lora') return {...recipe, model: {...model, nameOrPath: folder}};
  const merged = model.createNewAdapter ? model.adapters : model.adapters.slice(0, -1);
  return {...recipe, model: {...model, adapters: [...merged, folder]}};
}

const namesIn = (folder: string) => readdir(folder).catch(() => [] as string[]);
