import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {readJson} from '../../../models/jsonFile.ts';
import type {RunLock} from '../../../quant/folders/runFolder.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import type {PairExample} from '../../data/batches/collate.ts';
import {evaluationMetrics} from '../../training/callbacks/trainingLog.ts';
import {ranks} from '../../training/cluster/ranks.ts';
import {openRunFolder} from '../../training/output/diskRunFolder.ts';
import {holdOutputFolder} from '../../training/output/outputFolder.ts';
import {writeResults} from '../../training/output/resultFiles.ts';
import {predictDataset} from '../../training/prediction/predictDataset.ts';
import {scorePairs} from '../../training/prediction/scoreAnswers.ts';
import type {CallbackLike} from '../../training/run/callbacks.ts';
import type {TrainableCausalLM} from '../../training/trainable.ts';
import {assertRecipe} from './assertRecipe.ts';
import {formatPlan} from './formatPlan.ts';
import {lossOf} from './lossOf.ts';
import {modelInUse} from './modelInUse.ts';
import {applyMethod, openBase, useModel} from './openModel.ts';
import {type OpenedReference, openReference} from './openReference.ts';
import {type OpenedRewards, openRewards} from './openRewards.ts';
import {outputWishes, outputWords, sameRecipeWith} from './outputWishes.ts';
import {nameScoredModel} from './ownResults.ts';
import {PREPARE_OPTIONS, type PreparedRecipe, type PrepareOptions, prepareRecipe} from './prepareRecipe.ts';
import type {Recipe} from './recipe.ts';
import {type Phase, stopMessage} from './stopMessage.ts';
import {useTemplate} from './useTemplate.ts';

export interface RunOptions extends PrepareOptions {
  /** Called with the plan and with the results. */
  print?: (text: string) => void;
  /** Additional callbacks for the training. */
  callbacks?: CallbackLike[];
  /** When aborted, training finishes its step, saves and ends; evaluation and prediction end without a result. */
  signal?: AbortSignal;
  /** Whether to show progress (1) or not (0). Default 1. */
  verbose?: number;
}
const RUN_OPTIONS = {
  ...PREPARE_OPTIONS,
  print: true,
  callbacks: true,
  verbose: true,
} satisfies OptionNames<RunOptions>;

/**
 * Runs a recipe from data to files: it trains, evaluates and predicts, as the recipe says. Faults of the recipe, its
 * data and its folders are found before the model's weights are read. The output folder is locked for other runs
 * meanwhile. If the run to resume is already finished, nothing is trained, but predictions that are still missing are
 * made. With several ranks, the first one writes and prints.
 *
 * @returns whether the run was stopped; the last printed text then says how to resume it
 * @example
 * ```ts
 * import {loadRecipe, trainRecipe} from 'tfjs-lora/recipes';
 *
 * await trainRecipe(await loadRecipe('recipe.yaml', ['lora_rank=16']), {print: console.log});
 * ```
 */
export async function trainRecipe(
  recipe: Recipe,
  options: RunOptions = {},
): Promise<{isInterrupted: boolean}> {
  assertKnownOptions('trainRecipe', options, RUN_OPTIONS);
  assertRecipe('trainRecipe', recipe);
  const {
    tasks,
    fit: {outputDir: folder},
  } = recipe;
  const {commandWith = sameRecipeWith, callbacks, verbose} = options;
  let {signal} = options;
  let print = options.print ?? (() => {});
  let phase: Phase = 'loading';
  const ended = async (error: unknown) => {
    if (!signal?.aborted || error !== signal.reason) throw error;
    print(await stopMessage(recipe, phase, commandWith));
    return {isInterrupted: true};
  };
  let prepared: PreparedRecipe;
  try {
    prepared = await prepareRecipe(recipe, options); // joins the ranks
  } catch (error) {
    return ended(error);
  }
  const {data, plan, optimizer, training, prediction} = prepared;
  const {isFirst} = ranks();
  if (!isFirst) print = () => {};
  signal = ranks().agreed(signal);
  print(formatPlan(plan));
  if (plan.isFinished) {
    optimizer.dispose();
    print(`already finished: the files in ${folder} stay as they are`);
    print(formatMetrics(await lossesIn(folder!)));
    if (!tasks.predict || existsSync(join(folder!, 'predict_results.json'))) return {isInterrupted: false};
    const trained = await modelInUse(recipe);
    return trainRecipe({...trained, tasks: {train: false, evaluate: false, predict: true}}, options);
  }
  let lock: RunLock | undefined;
  let model: TrainableCausalLM | undefined;
  let opened: OpenedReference = {};
  let judge: OpenedRewards | undefined;
  try {
    signal?.throwIfAborted();
    const words = outputWords(recipe, commandWith);
    if (folder !== undefined && isFirst)
      lock = await holdOutputFolder(openRunFolder(folder), await outputWishes(recipe), words);

    // The model: its frozen part stored as the recipe says, and what trains in it.
    model = await openBase(recipe, {signal});
    useTemplate(model, recipe.data);
    if (tasks.train) {
      opened = await openReference(recipe, model, {signal});
      await applyMethod(model, recipe, {signal});
      judge = await openRewards(recipe, model, {signal});
    } else await useModel(model, recipe);
    signal?.throwIfAborted();

    // Training: adapter or model, checkpoints, logs, results and plots go to the output folder.
    if (training) {
      phase = 'training';
      model.compile({...training.compile, loss: lossOf(recipe, opened, judge)});
      const args = {...training.fit, callbacks, signal, verbose};
      const {isInterrupted} = await model.trainer.fit(data.training!, args, lock);
      if (isInterrupted) {
        print(await stopMessage(recipe, phase, commandWith));
        return {isInterrupted};
      }
      if (recipe.pissa.convert && isFirst)
        await model.saveAdapter(join(folder!, 'pissa_converted'), undefined, {convertToLoRA: true});
      if (isFirst) print(formatMetrics(await lossesIn(folder!)));
    }

    // Evaluation of a model that was not trained in this run; a training ends with its own evaluation.
    if (tasks.evaluate && !tasks.train) {
      phase = 'evaluation';
      const {batchSize} = prediction;
      model.compile({loss: lossOf(recipe, opened)});
      const metrics = evaluationMetrics(await model.evaluateDataset(data.validation!, {batchSize, signal}));
      if (folder !== undefined && isFirst) await writeResults(openRunFolder(folder), 'eval', metrics);
      if (isFirst) await nameScoredModel(recipe);
      print(formatMetrics(metrics));
    }

    // Prediction: answers generated and scored, or a reward model's scores of given answers.
    if (tasks.predict) {
      phase = 'prediction';
      const {batchSize, outputDir} = prediction;
      const {metrics} = data.prompts
        ? await predictDataset(model, data.prompts, {...prediction, signal})
        : await scorePairs(model, data.validation as PairExample[], {batchSize, outputDir, signal});
      if (!tasks.train && isFirst) await nameScoredModel(recipe);
      print(formatMetrics(metrics));
    }
    if (folder !== undefined) print(`output ${folder}`);
    return {isInterrupted: false};
  } catch (error) {
    return await ended(error);
  } finally {
    lock?.release();
    model?.dispose();
    opened.model?.dispose();
    judge?.dispose();
    optimizer.dispose();
  }
}

/** Reads the losses of the whole run, which the trainer wrote, even if this call only did a part of it. */
async function lossesIn(folder: string): Promise<Record<string, number>> {
  const results = (await readJson(join(folder, 'all_results.json'))) as Record<string, number>;
  const names = ['train_loss', 'eval_loss', 'eval_perplexity', 'eval_accuracy'];
  return Object.fromEntries(names.filter((name) => name in results).map((name) => [name, results[name]]));
}

function formatMetrics(metrics: Record<string, number>): string {
  const width = Math.max(...Object.keys(metrics).map((name) => name.length));
  return Object.entries(metrics)
    .map(([name, value]) => `${name.padEnd(width)}  ${Number(value.toPrecision(6))}`)
    .join('\n');
}
