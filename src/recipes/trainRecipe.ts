import {join} from 'node:path';
import {readJson} from '../../models/jsonFile.ts';
import {Tokenizer} from '../../models/tokenizer.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {type BackendName, useBackend} from '../backends/useBackend.ts';
import {templateStopIds} from '../data/templates/encodeTurns.ts';
import {resolveTemplate} from '../data/templates/templateRegistry.ts';
import {predictDataset} from '../evaluation/predictDataset.ts';
import type {Llama} from '../llama.ts';
import type {CallbackLike} from '../training/callbacks.ts';
import type {FitArgs} from '../training/fitArgs.ts';
import {writeResults} from '../training/resultFiles.ts';
import {evaluationMetrics} from '../training/trainingLog.ts';
import {formatPlan} from './formatPlan.ts';
import {lengthOf, loadRecipeData, type RecipeData} from './loadRecipeData.ts';
import {assertOwnResults} from './modelInUse.ts';
import {applyMethod, folderOf, openBase, useAdapters} from './openModel.ts';
import {optimizerOf} from './optimizerOf.ts';
import {checkpointToResume} from './outputFolder.ts';
import {planOf} from './planRecipe.ts';
import type {Recipe} from './recipe.ts';
import {type RunSteps, runSteps} from './runSteps.ts';
import {useTemplate} from './useTemplate.ts';

export interface RunOptions {
  backend?: 'auto' | BackendName;
  /** Told the plan and the results. */
  print?: (text: string) => void;
  /** Further callbacks of the training. */
  callbacks?: CallbackLike[];
  /** Once aborted, training finishes its step, saves and ends. */
  signal?: AbortSignal;
  /** Bytes: refuse a training whose estimated peak is above. Default none. */
  memoryBudget?: number;
  /** 0 shows no progress. Default 1. */
  verbose?: number;
}

/**
 * Runs a recipe from data to files: trains, evaluates and predicts, as it asks. What can be wrong with the recipe, its
 * data and its folders is found before the model's weights are read.
 *
 * @returns whether the run was interrupted; run again, it goes on from its checkpoint
 */
export async function trainRecipe(
  recipe: Recipe,
  options: RunOptions = {},
): Promise<{isInterrupted: boolean}> {
  const {tasks, training, output} = recipe;
  const {print = () => {}} = options;
  assertHasTask(recipe);
  if (!tasks.train) await assertOwnResults(recipe);
  print(String(await useBackend(options.backend, {computeDtype: recipe.model.computeDtype})));
  const optimizer = optimizerOf(recipe);
  let model: Llama | undefined;
  try {
    // The data: token ids with labels, and prompts with the answers expected.
    const resumeFrom = await checkpointToResume(recipe);
    const tokenizer = await Tokenizer.fromFolder(await folderOf(recipe.model.nameOrPath, recipe));
    const data = await loadRecipeData(recipe, tokenizer);
    const steps = data.training ? runSteps(recipe, lengthOf(data.training)) : undefined;

    // The model: its frozen part stored as the recipe says, and what trains in it.
    model = await openBase(recipe);
    useTemplate(model, recipe.data);
    if (tasks.train) await applyMethod(model, recipe);
    else await useAdapters(model, recipe, {last: 'keep'});
    print(formatPlan(planOf(recipe, model, data, {steps, optimizer, resumeFrom})));

    // Training: adapter or model, checkpoints, logs, results and plots go to the output folder.
    if (steps) {
      model.compile({
        optimizer,
        schedule: {...training.schedule, warmupSteps: steps.warmup},
        maxGradNorm: training.maxGradNorm,
      });
      const history = await model.fitDataset(
        data.training!,
        fitArgs(recipe, data, steps, resumeFrom, options),
      );
      if (history.isInterrupted) {
        print(`interrupted after step ${history.steps.at(-1)?.step}; run it again to go on from there`);
        return {isInterrupted: true};
      }
      print(formatMetrics(await lossesIn(output.folder!)));
    }

    // Evaluation of a model that was not trained here; a training ends with its own.
    if (tasks.evaluate && !tasks.train) {
      const {evaluationBatchSize: batchSize} = training;
      const metrics = evaluationMetrics(await model.evaluateDataset(data.validation!, {batchSize}));
      if (output.folder !== undefined) writeResults(output.folder, 'eval', metrics);
      print(formatMetrics(metrics));
    }

    // Prediction: answers generated and scored.
    if (data.prompts) {
      const {metrics} = await predictDataset(model, data.prompts, {
        ...recipe.generation,
        eosTokenId: templateStopIds(resolveTemplate(recipe.data.template, tokenizer), tokenizer),
        batchSize: training.evaluationBatchSize,
        seed: training.seed,
        outputDir: output.folder,
      });
      print(formatMetrics(metrics));
    }
    if (output.folder !== undefined) print(`output ${output.folder}`);
    return {isInterrupted: false};
  } finally {
    model?.dispose();
    optimizer.dispose();
  }
}

function assertHasTask({tasks, path}: Recipe): void {
  if (tasks.train || tasks.evaluate || tasks.predict) return;
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `${path}: expected something to do, got do_train, do_eval and do_predict all false. Set one of them to true.`,
  );
}

/** How the training goes, in the trainer's words. */
function fitArgs(
  {output, training}: Recipe,
  {validation}: RecipeData,
  steps: RunSteps,
  resumeFrom: boolean | string,
  {callbacks, signal, memoryBudget, verbose}: RunOptions,
): FitArgs {
  const isWhole = training.maxSteps === undefined && Number.isInteger(training.epochs);
  return {
    ...(isWhole ? {epochs: training.epochs} : {maxSteps: steps.total}),
    batchSize: training.batchSize,
    gradientAccumulationSteps: training.gradientAccumulationSteps,
    shuffle: training.shuffle,
    groupByLength: training.groupByLength,
    seed: training.dataSeed,
    ...(validation && {
      validationData: validation,
      validationBatchSize: training.evaluationBatchSize,
      evaluationStrategy: output.evaluationStrategy,
      evaluationSteps: steps.evaluation,
      earlyStoppingPatience: output.earlyStoppingPatience,
    }),
    outputDir: output.folder,
    overwriteOutputDir: output.overwrite,
    resumeFromCheckpoint: resumeFrom,
    loggingSteps: steps.logging,
    saveStrategy: output.saveStrategy,
    saveSteps: steps.saving,
    saveTotalLimit: output.saveTotalLimit,
    loadBestModelAtEnd: output.loadBestModelAtEnd,
    reportTo: output.reportTo,
    plotLoss: output.plotLoss,
    callbacks,
    signal,
    memoryBudget,
    verbose,
  };
}

/** What the trainer wrote of the whole run, also where this call did a part of it. */
async function lossesIn(folder: string): Promise<Record<string, number>> {
  const results = (await readJson(join(folder, 'all_results.json'))) as Record<string, number>;
  const names = ['train_loss', 'eval_loss', 'eval_perplexity'];
  return Object.fromEntries(names.filter((name) => name in results).map((name) => [name, results[name]]));
}

function formatMetrics(metrics: Record<string, number>): string {
  const width = Math.max(...Object.keys(metrics).map((name) => name.length));
  return Object.entries(metrics)
    .map(([name, value]) => `${name.padEnd(width)}  ${Number(value.toPrecision(6))}`)
    .join('\n');
}
