import type {Tokenizer} from '../../../models/tokenizer.ts';
import type {TrainingData} from '../../data/batches/batches.ts';
import type {Example} from '../../data/batches/collate.ts';
import type {DatasetArgs} from '../../data/datasets/datasetArgs.ts';
import {huggingFaceEnvironment} from '../../data/hub/hubOptions.ts';
import {loadDataset, loadPrompts, loadSplits} from '../../data/loadDataset.ts';
import type {PromptExample} from '../../data/preprocessing/promptExample.ts';
import {templateStopIds} from '../../data/templates/encodeTurns.ts';
import {resolveTemplate} from '../../data/templates/templateRegistry.ts';
import {assertThinking} from './assertThinking.ts';
import {hubOptions} from './openModel.ts';
import type {Recipe} from './recipe.ts';

export interface RecipeData {
  training?: TrainingData;
  validation?: TrainingData;
  /** Prompts to answer, with the expected answers. */
  prompts?: PromptExample[];
  /** Prompts to answer at each evaluation of a training. */
  validationPrompts?: PromptExample[];
}

/** Reads, splits and tokenizes the data that a recipe's tasks need. */
export async function loadRecipeData(
  recipe: Recipe,
  tokenizer: Tokenizer,
  signal?: AbortSignal,
): Promise<RecipeData> {
  const {splits} = recipe;
  const isOfScores = recipe.data.stage === 'rm'; // which predicts the scores of the evaluation data's pairs
  const tasks = isOfScores
    ? {...recipe.tasks, evaluate: recipe.tasks.evaluate || recipe.tasks.predict}
    : recipe.tasks;
  assertThinking(recipe, tokenizer);
  const args = {...datasetArgs(recipe, tokenizer), signal};
  const {dataset, evaluationDataset, valSize} = splits;
  const isHeldOut = evaluationDataset.length === 0; // the evaluation data is a part of the training data
  const loaded: RecipeData = {};
  if (recipe.data.stage === 'ppo') {
    const prompts = await loadPrompts({...args, stage: 'sft', dataset});
    const stopIds = templateStopIds(resolveTemplate(recipe.data.template, tokenizer), tokenizer);
    return {training: prompts.map(({promptIds: inputIds}) => ({inputIds, stopIds}) as Example)};
  }
  if (tasks.train || (tasks.evaluate && isHeldOut)) {
    const {train, validation} = await loadSplits({
      ...args,
      dataset,
      ...(isHeldOut ? {valSize} : tasks.evaluate && {evaluationDataset}),
    });
    if (tasks.train) loaded.training = train;
    if (tasks.evaluate) loaded.validation = validation;
  } else if (tasks.evaluate) {
    loaded.validation = await loadDataset({...args, dataset: evaluationDataset, streaming: false});
  }
  const scoresInTraining = tasks.train && tasks.evaluate && recipe.fit.predictWithGenerate;
  if ((tasks.predict && !isOfScores) || scoresInTraining) {
    const prompts = await loadPrompts(
      isHeldOut ? {...args, dataset, valSize} : {...args, dataset: evaluationDataset},
    );
    if (tasks.predict) loaded.prompts = prompts;
    if (scoresInTraining) loaded.validationPrompts = prompts.slice(0, recipe.answers.samples);
  }
  return loaded;
}

/** Returns the number of examples, or undefined if they are streamed. */
export function lengthOf(data: TrainingData): number | undefined {
  return Array.isArray(data) ? data.length : undefined;
}

function datasetArgs(recipe: Recipe, tokenizer: Tokenizer): Omit<DatasetArgs, 'dataset'> {
  const cacheDir = huggingFaceEnvironment(process.env).tokenizedCache;
  const {stage, ...data} = recipe.data;
  return {...data, ...(stage !== 'ppo' && {stage}), tokenizer, cacheDir, hub: hubOptions(recipe)};
}
