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

/** Which model the results in a folder are of; folders by their real path. */
interface ScoredModel {
  model: string;
  revision: string;
  adapters: string[];
  quantization: string;
}

/**
 * A folder takes results of one model only: a training's those of what was trained there, any other those of the model
 * that it holds results of.
 *
 * @throws TfjsLoraError `INVALID_CONFIG`
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

/** Writes down whose results a folder has got; a training's folder, which holds the model itself, needs none. */
export async function nameScoredModel(recipe: Recipe): Promise<void> {
  const {outputDir: folder} = recipe.fit;
  if (folder === undefined || (await isOfThatFolder(recipe, folder))) return;
  writeWhole(join(folder, SCORED_MODEL_FILE), `${JSON.stringify(await scoredModel(recipe), null, 2)}\n`);
}

/** Whose the results are where they are another model's. */
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

/** Whether what is scored was trained or saved in the folder that its results go to. */
async function isOfThatFolder({model}: Recipe, folder: string): Promise<boolean> {
  return (await placeOf(model.adapters.at(-1) ?? model.nameOrPath)) === (await placeOf(folder));
}

/** A folder's real path; a name on the hub as it is. */
const placeOf = (nameOrPath: string): Promise<string> => realpath(nameOrPath).catch(() => nameOrPath);
