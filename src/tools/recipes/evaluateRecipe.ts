import {join} from 'node:path';
import {Tokenizer} from '../../../models/tokenizer.ts';
import {counted} from '../../../quant/counted.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {isFourBitType} from '../../../quant/quantizerRegistry.ts';
import {writeWhole} from '../../../quant/safetensors/writeWhole.ts';
import {templateStopIds} from '../../data/templates/encodeTurns.ts';
import {resolveTemplate} from '../../data/templates/templateRegistry.ts';
import {type BackendName, useBackend} from '../../training/backends/useBackend.ts';
import {evaluationMetrics} from '../../training/callbacks/trainingLog.ts';
import {openRunFolder} from '../../training/output/diskRunFolder.ts';
import {writeResults} from '../../training/output/resultFiles.ts';
import {plotComparison} from '../../training/plots/comparisonPlot.ts';
import {assertCanPlot} from '../../training/plots/renderPlot.ts';
import {
  type PredictionProgress,
  type PredictionRun,
  type PredictOptions,
  predictDataset,
} from '../../training/prediction/predictDataset.ts';
import type {Evaluation} from '../../training/run/callbacks.ts';
import {
  type Candidate,
  type Comparison,
  compareModels,
  comparisonTable,
  guideScores,
} from '../evaluation/compareModels.ts';
import {loadBenchmark} from '../evaluation/loadBenchmark.ts';
import {
  assertBenchmarkOptions,
  type BenchmarkOptions,
  type BenchmarkResult,
  scoreBenchmark,
} from '../evaluation/scoreBenchmark.ts';
import {assertRecipe} from './assertRecipe.ts';
import {loadRecipeData, type RecipeData} from './loadRecipeData.ts';
import {describeModel, modelInUse} from './modelInUse.ts';
import {adapterFolderOf, folderOf, openBase, useAdapters} from './openModel.ts';
import {assertOwnResults, nameScoredModel} from './ownResults.ts';
import type {Recipe} from './recipe.ts';

export interface EvaluateOptions {
  backend?: 'auto' | BackendName;
  onProgress?: (label: string, progress: PredictionProgress) => void;
  /** Called with the name of the scored model, before its weights are read. */
  onModel?: (description: string) => void;
  /** Stops the evaluation, with the signal's reason as the error. */
  signal?: AbortSignal;
}
const EVALUATE_OPTIONS = {
  backend: true,
  onProgress: true,
  onModel: true,
  signal: true,
} satisfies OptionNames<EvaluateOptions>;

/** Options of {@link benchmarkRecipe}. */
export type BenchmarkRecipeOptions = Omit<EvaluateOptions, 'onProgress'> &
  Pick<BenchmarkOptions, 'onProgress'>;

export interface RecipeEvaluation {
  /** Name of the scored model: `Llama-3.2-1B with adapter saves/lora`. */
  model: string;
  prediction: PredictionRun;
  evaluation: Evaluation;
}

/**
 * Answers a recipe's evaluation data with its model and adapters, and measures loss and perplexity, regardless of
 * `do_train`, `do_eval` and `do_predict`. The data is `eval_dataset`, or the part of `dataset` that `val_size` holds
 * out. Predictions and results are written to `output_dir`, if there is one. For a recipe that trains, the trained
 * model is evaluated.
 */
export async function evaluateRecipe(
  given: Recipe,
  options: EvaluateOptions = {},
): Promise<RecipeEvaluation> {
  assertKnownOptions('evaluateRecipe', options, EVALUATE_OPTIONS);
  assertRecipe('evaluateRecipe', given);
  const recipe = await modelInUse(given);
  await assertOwnResults(recipe);
  const {prompts, validation, predictOptions} = await prepare(recipe, options);
  const description = describeModel(recipe);
  options.onModel?.(description);
  const {outputDir: folder} = recipe.fit;
  const {signal} = options;
  const model = await openBase(recipe, {signal});
  try {
    await useAdapters(model, recipe, {last: 'keep'});
    const prediction = await predictDataset(model, prompts, {
      ...predictOptions,
      outputDir: folder,
      signal,
      onProgress: (progress) => options.onProgress?.('', progress),
    });
    await nameScoredModel(recipe);
    const evaluation = await model.evaluateDataset(validation, {
      batchSize: predictOptions.batchSize,
      signal,
    });
    if (folder !== undefined)
      await writeResults(openRunFolder(folder), 'eval', evaluationMetrics(evaluation));
    return {model: description, prediction, evaluation};
  } finally {
    model.dispose();
  }
}

/**
 * Runs the benchmark of a recipe's `task` with its model and adapters, like LLaMA-Factory's `eval`. Questions, settings
 * and folders are checked before the model is read.
 *
 * @returns the name of the scored model, and its result
 */
export async function benchmarkRecipe(
  given: Recipe,
  options: BenchmarkRecipeOptions = {},
): Promise<{model: string; result: BenchmarkResult}> {
  assertKnownOptions('benchmarkRecipe', options, EVALUATE_OPTIONS);
  assertRecipe('benchmarkRecipe', given);
  const {backend, signal, onProgress, onModel} = options;
  const recipe = await modelInUse(given);
  const {task, taskDir, ...benchmark} = recipe.benchmark;
  if (task === undefined) {
    throw new TfjsLoraError('INVALID_CONFIG', `${recipe.path} task: expected a benchmark, got none`);
  }
  assertBenchmarkOptions(benchmark);
  const subjects = await loadBenchmark(task, taskDir);
  await useBackend(backend);
  const description = describeModel(recipe);
  onModel?.(description);
  const model = await openBase(recipe, {signal});
  try {
    await useAdapters(model, recipe, {last: 'keep'});
    return {
      model: description,
      result: await scoreBenchmark(model, subjects, {...benchmark, onProgress, signal}),
    };
  } finally {
    model.dispose();
  }
}

/**
 * Answers a recipe's evaluation data with several models on its base. `comparison.md`, `.json`, `.svg` and `.png`, and
 * each model's predictions in `comparison-1/`, `comparison-2/` …, are written to `output_dir`, if there is one.
 *
 * @returns each model's scores, the tables in Markdown, and the number of prompts
 */
export async function compareRecipe(
  recipe: Recipe,
  candidates: readonly Candidate[],
  options: EvaluateOptions = {},
): Promise<{comparisons: Comparison[]; table: string; count: number}> {
  assertKnownOptions('compareRecipe', options, EVALUATE_OPTIONS);
  assertRecipe('compareRecipe', recipe);
  const adapters = await Promise.all(
    candidates.map(async ({adapter}) => adapter && adapterFolderOf(adapter, recipe, '--compare')),
  );
  const {outputDir: folder} = recipe.fit;
  if (folder !== undefined) await assertCanPlot();
  const {prompts, validation, predictOptions} = await prepare(recipe, options);
  const {signal} = options;
  const comparisons = await compareModels(
    candidates.map((candidate, index) => ({
      ...candidate,
      ...(adapters[index] !== undefined && {adapter: adapters[index]}),
    })),
    {
      open: ({quantization: type}) => openBase(withQuantization(recipe, type), {signal}),
      signal,
      prompts,
      examples: validation,
      options: predictOptions,
      ...(folder !== undefined && {outputDirOf: (_, index) => join(folder, `comparison-${index + 1}`)}),
      onProgress: ({label}, progress) => options.onProgress?.(label, progress),
    },
  );
  const table = comparisonTable(comparisons);
  if (folder !== undefined) {
    writeWhole(join(folder, 'comparison.md'), `${table}\n`);
    writeWhole(join(folder, 'comparison.json'), `${JSON.stringify(comparisons, null, 2)}\n`);
    for (const kind of ['svg', 'png']) {
      await drawComparison(comparisons, join(folder, `comparison.${kind}`), prompts.length);
    }
  }
  return {comparisons, table, count: prompts.length};
}

/** Draws each model's scores, by LLaMA-Factory's metrics, as bars. */
export function drawComparison(
  comparisons: readonly Comparison[],
  path: string,
  count: number,
): Promise<string> {
  return plotComparison(
    comparisons.map(({label, scores}) => ({label, scores: guideScores(scores)})),
    path,
    {title: 'Before and after fine-tuning', subtitle: `${counted(count, 'prompt')}, LLaMA-Factory's metrics`},
  );
}

function withQuantization(recipe: Recipe, type: Candidate['quantization']): Recipe {
  const {doubleQuant = true} = recipe.model.quantization ?? {};
  const quantization = type && {type, ...(isFourBitType(type) && {doubleQuant})};
  return {...recipe, model: {...recipe.model, quantization}};
}

type Prepared = Required<Pick<RecipeData, 'prompts' | 'validation'>> & {
  predictOptions: Omit<PredictOptions, 'outputDir' | 'onProgress' | 'signal'> & {batchSize: number};
};

/** Prepares data and settings, and finds what is wrong with them before a model is read. */
async function prepare(recipe: Recipe, {backend, signal}: EvaluateOptions): Promise<Prepared> {
  const {data, splits, path} = recipe;
  const {stage} = data;
  if (stage !== 'sft') {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${path} stage: expected sft, which has answers to score, got ${stage}`,
    );
  }
  if (splits.evaluationDataset.length === 0 && splits.valSize === 0) {
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${path} eval_dataset: expected data to evaluate on, got none. Set eval_dataset or val_size.`,
    );
  }
  await useBackend(backend);
  const tokenizer = await Tokenizer.fromFolder(await folderOf(recipe.model.nameOrPath, recipe, signal));
  const tasks = {train: false, evaluate: true, predict: true};
  const {prompts = [], validation = []} = await loadRecipeData({...recipe, tasks}, tokenizer, signal);
  const predictOptions = {
    ...recipe.generation,
    ...recipe.prediction,
    eosTokenId: templateStopIds(resolveTemplate(data.template, tokenizer), tokenizer),
  };
  return {prompts, validation, predictOptions};
}
