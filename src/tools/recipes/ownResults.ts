import {readdir, realpath} from 'node:fs/promises';
import {join, resolve} from 'node:path';
import {readJson} from '../../../models/jsonFile.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {writeWhole} from '../../../quant/safetensors/writeWhole.ts';
import {SCORED_MODEL_FILE} from '../../training/output/resultFiles.ts';
import {describeModel} from './modelInUse.ts';
import type {Recipe} from './recipe.ts';

const OF_A_RUN =
  /^(trainer_state\.json|train_results\.json|adapter_config\.json|adapter_model\.safetensors|checkpoint-\d+)$/;
const RESULTS = /^(generated_predictions\.jsonl|(predict|eval|all)_results\.json)$/;

/** The model whose results a folder holds. Folders are given by their real paths. */
interface ScoredModel {
  model: string;
  revision: string;
  adapters: string[];
  quantization: string;
}

/**
 * Refuses to write the results of one model into the folder of another. A training's folder only takes the results of
 * the model trained there, and any other folder only those of the model whose results it already holds.
 *
 * @throws TfjsLoraError `INVALID_CONFIG` when the output folder belongs to another model
 */
export async function assertOwnResults(recipe: Recipe): Promise<void> {
  const {fit, path} = recipe;
  const {outputDir: folder} = fit;
  if (folder === undefined || (await isOfThatFolder(recipe, folder))) return;
  const names = await readdir(folder).catch(() => [] as string[]);
  const held = names.some((name) => OF_A_RUN.test(name))
    ? "a training's own"
    : names.some((name) => RESULTS.test(name))
      ? await othersResults(recipe, folder, names.includes(SCORED_MODEL_FILE))
      : undefined;
  if (held === undefined) return;
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `${path} output_dir: expected a folder for the results of ${describeModel(recipe)}, got ${resolve(folder)}, ` +
      `which holds ${held}. Choose another folder with output_dir=<folder>, or write no files with output_dir=null.`,
  );
}

/**
 * Records the model whose results a folder holds. A training's folder needs no record, as it holds the model itself.
 */
export async function nameScoredModel(recipe: Recipe): Promise<void> {
  const {outputDir: folder} = recipe.fit;
  if (folder === undefined || (await isOfThatFolder(recipe, folder))) return;
  writeWhole(join(folder, SCORED_MODEL_FILE), `${JSON.stringify(await scoredModel(recipe), null, 2)}\n`);
}

/** Describes the results in a folder if they are another model's, or undefined. */
async function othersResults(recipe: Recipe, folder: string, isNamed: boolean): Promise<string | undefined> {
  if (!isNamed) return `results without a ${SCORED_MODEL_FILE} that names their model`;
  const [held, own] = [await readJson(join(folder, SCORED_MODEL_FILE)), await scoredModel(recipe)];
  const keys = Object.keys(own) as (keyof ScoredModel)[];
  const isSame = keys.every((key) => JSON.stringify(held[key]) === JSON.stringify(own[key]));
  return isSame ? undefined : `those of another model: ${JSON.stringify(held)}`;
}

async function scoredModel({model}: Recipe): Promise<ScoredModel> {
  const {nameOrPath, revision, adapters, quantization} = model;
  return {
    model: await placeOf(nameOrPath),
    revision,
    adapters: await Promise.all(adapters.map(placeOf)),
    quantization: quantization?.type ?? 'none',
  };
}

/** Whether the scored model was trained or saved in the folder of its results. */
async function isOfThatFolder({model}: Recipe, folder: string): Promise<boolean> {
  return (await placeOf(model.adapters.at(-1) ?? model.nameOrPath)) === (await placeOf(folder));
}

/** Returns a folder's real path, or a name on the hub unchanged. */
const placeOf = (nameOrPath: string): Promise<string> => realpath(nameOrPath).catch(() => nameOrPath);
