import type * as tf from '@tensorflow/tfjs';
import {Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {OptionNames} from '../../../quant/knownOptions.ts';
import {assertData, type TrainingData} from '../../data/batches/batches.ts';
import {type Example, longestRow} from '../../data/batches/collate.ts';
import {templateStopIds} from '../../data/templates/encodeTurns.ts';
import {resolveTemplate} from '../../data/templates/templateRegistry.ts';
import {cardMemory} from '../../training/backends/cardMemory.ts';
import {type BackendName, useBackend} from '../../training/backends/useBackend.ts';
import {joinCluster} from '../../training/cluster/joinCluster.ts';
import {ranks} from '../../training/cluster/ranks.ts';
import {openRunFolder} from '../../training/output/diskRunFolder.ts';
import {assertOutputFolder, earlierFiles, isFinishedRun} from '../../training/output/outputFolder.ts';
import {assertPredictable, type PredictOptions} from '../../training/prediction/predictDataset.ts';
import type {FitArgs} from '../../training/run/fitArgs.ts';
import type {CompileArgs} from '../../training/steps/trainingStep.ts';
import type {TrainableCausalLM} from '../../training/trainable.ts';
import {inRecipeKeys} from './inRecipeKeys.ts';
import {lengthOf, loadRecipeData, type RecipeData} from './loadRecipeData.ts';
import {lossOf} from './lossOf.ts';
import {applyMethod, folderOf, openBase, useModel} from './openModel.ts';
import {type OpenedReference, openReference} from './openReference.ts';
import {type OpenedRewards, openRewards} from './openRewards.ts';
import {optimizerOf} from './optimizerOf.ts';
import {
  type CommandWith,
  outputWishes,
  outputWords,
  recipeCheckpoint,
  sameRecipeWith,
} from './outputWishes.ts';
import {assertOwnResults} from './ownResults.ts';
import {planOf, type RecipePlan, usesCard} from './planOf.ts';
import type {Recipe} from './recipe.ts';
import {type RunSteps, runSteps} from './runSteps.ts';
import {useTemplate} from './useTemplate.ts';

export interface PrepareOptions {
  backend?: 'auto' | BackendName;
  /** Limit in bytes; a training whose estimated peak is higher is refused. Default: none. */
  memoryBudget?: number;
  /** Returns the command that resumes or starts over, for messages. Default: a sentence with the keys to set. */
  commandWith?: CommandWith;
  /** Stops reading the data, with the signal's reason as the error. */
  signal?: AbortSignal;
}
export const PREPARE_OPTIONS = {
  backend: true,
  memoryBudget: true,
  commandWith: true,
  signal: true,
} satisfies OptionNames<PrepareOptions>;

/** A recipe that is checked and ready to run. */
export interface PreparedRecipe {
  data: RecipeData;
  plan: RecipePlan;
  /** Optimizer, which the caller disposes. */
  optimizer: tf.Optimizer;
  /** Arguments of `compile`, without its loss, and of `fitDataset`, if the recipe trains. */
  training?: {compile: CompileArgs; fit: FitArgs};
  /** Options of `predictDataset`. */
  prediction: PredictOptions;
}

/**
 * Checks a recipe, its data, model and folders before the weights are read, with a model whose weights are not
 * allocated. It writes nothing, and joins the ranks that a launcher started.
 *
 * @throws TfjsLoraError in terms of the recipe's keys
 */
export async function prepareRecipe(recipe: Recipe, options: PrepareOptions = {}): Promise<PreparedRecipe> {
  const {
    tasks,
    model: {computeDtype},
    fit: {outputDir: folder},
  } = recipe;
  const {commandWith = sameRecipeWith, signal} = options;
  assertHasTask(recipe);
  await joinCluster({timeout: recipe.cluster.timeout});
  const {isFirst} = ranks(); // the rank that writes to the output folder
  if (!tasks.train && isFirst) await assertOwnResults(recipe);
  const backend = await useBackend(options.backend, {computeDtype});
  const optimizer = optimizerOf(recipe);
  let model: TrainableCausalLM | undefined;
  let opened: OpenedReference = {};
  let judge: OpenedRewards | undefined;
  try {
    const wishes = await outputWishes(recipe);
    if (folder !== undefined && isFirst)
      await assertOutputFolder(openRunFolder(folder), wishes, outputWords(recipe, commandWith));
    const resumeFrom = await recipeCheckpoint(recipe, commandWith);

    // The data: token ids with labels, and prompts with the expected answers.
    const tokenizer = await Tokenizer.fromFolder(await folderOf(recipe.model.nameOrPath, recipe, signal));
    const data = await loadRecipeData(recipe, tokenizer, signal);
    const steps = data.training ? runSteps(recipe, lengthOf(data.training)) : undefined;

    // The model: what trains in it, and whether data and settings fit it.
    model = await openBase(recipe, {allocate: false});
    useTemplate(model, recipe.data);
    if (tasks.train) {
      opened = await openReference(recipe, model, {allocate: false});
      await applyMethod(model, recipe);
      judge = await openRewards(recipe, model, {allocate: false});
    } else await useModel(model, recipe);
    assertLengths(recipe, model, data);
    const prediction = predictOptions(recipe, tokenizer);
    const training = steps && {
      compile: compileArgs(recipe, steps, optimizer),
      fit: {
        ...fitArgs(recipe, data, steps, prediction),
        resumeFromCheckpoint: resumeFrom,
        memoryBudget: options.memoryBudget,
      },
    };
    if (training) {
      model.compile({...training.compile, loss: lossOf(recipe, opened, judge)});
      await model.trainer.check(data.training!, training.fit).catch((error) => {
        throw inRecipeKeys(error);
      });
    } else if (data.validation) {
      assertData(data.validation, 'evaluation data', limitsOf(model));
    }
    if (data.prompts) await assertPredictable(model, data.prompts, prediction);

    const otherModels = [opened.model ?? [], judge?.model ?? []].flat();
    const run = {
      backend,
      steps,
      optimizer,
      otherModels,
      memoryBudget: options.memoryBudget,
      cardMemory: usesCard(backend) ? await cardMemory() : undefined,
      resumeFrom,
      ...(await earlierIn(folder, steps, resumeFrom)),
    };
    const plan = planOf(recipe, model, data, run);
    return {data, plan, optimizer, training, prediction};
  } catch (error) {
    optimizer.dispose();
    throw error;
  } finally {
    model?.dispose();
    opened.model?.dispose();
    judge?.dispose();
  }
}

/** Describes what is in a training's output folder: files to remove, or a run that is already finished. */
async function earlierIn(
  outputDir: string | undefined,
  steps: RunSteps | undefined,
  resumeFrom: string | false,
): Promise<Pick<RecipePlan, 'overwrites' | 'isFinished'>> {
  if (outputDir === undefined || steps === undefined) return {isFinished: false};
  const folder = openRunFolder(outputDir);
  if (resumeFrom === false) return {isFinished: false, overwrites: await earlierFiles(folder)};
  return {isFinished: await isFinishedRun(folder, openRunFolder(resumeFrom), steps.total)};
}

function assertHasTask({tasks, path, export: {exportDir}}: Recipe): void {
  if (tasks.train || tasks.evaluate || tasks.predict) return;
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `${path}: expected something to do, got do_train, do_eval and do_predict all false. Set one of them to true` +
      (exportDir === undefined
        ? ', or use the recipe with chat or serve.'
        : ', or export the model: tfjs-lora export.'),
  );
}

const limitsOf = ({config: {maxPositionEmbeddings, vocabSize}}: TrainableCausalLM) => ({
  maxLength: maxPositionEmbeddings,
  vocabSize,
});

/** Refuses examples that are too long for the model. The trainer does so too, but cannot name the key to change. */
function assertLengths(
  {path, data: {cutoffLength}}: Recipe,
  model: TrainableCausalLM,
  data: RecipeData,
): void {
  const {maxLength} = limitsOf(model);
  const lists: [what: string, data: TrainingData | undefined][] = [
    ['training', data.training],
    ['evaluation', data.validation],
  ];
  for (const [what, list] of lists) {
    if (!Array.isArray(list)) continue; // streamed: found when it is read
    const lengths = list.map((item) => longestRow(item as Example));
    const index = lengths.findIndex((length) => length > maxLength);
    if (index === -1) continue;
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${path} cutoff_len: expected at most ${maxLength}, the model's max_position_embeddings, got ${cutoffLength}, and ` +
        `${what} example ${index} has ${lengths[index]} tokens. Set cutoff_len to ${maxLength} or less.`,
    );
  }
}

function compileArgs({compile}: Recipe, steps: RunSteps, optimizer: tf.Optimizer): CompileArgs {
  return {...compile, optimizer, schedule: {...compile.schedule, warmupSteps: steps.warmup}};
}

/** Returns the arguments of `fitDataset`, with the recipe's shares and fractions converted to steps. */
function fitArgs(
  {tasks, fit: {epochs, maxSteps, ...fit}}: Recipe,
  {validation, validationPrompts}: RecipeData,
  steps: RunSteps,
  {outputDir, ...generation}: PredictOptions,
): FitArgs {
  const isWhole = maxSteps === undefined && Number.isInteger(epochs);
  return {
    ...fit,
    ...(isWhole ? {epochs} : {maxSteps: steps.total}),
    ...(validation && tasks.evaluate && {validationData: validation}),
    predictWithGenerate: validationPrompts !== undefined,
    ...(validationPrompts && {generation: {...generation, prompts: validationPrompts}}),
    evaluationSteps: steps.evaluation,
    loggingSteps: steps.logging,
    saveSteps: steps.saving,
  };
}

function predictOptions({generation, prediction, data}: Recipe, tokenizer: Tokenizer): PredictOptions {
  const eosTokenId = templateStopIds(resolveTemplate(data.template, tokenizer), tokenizer);
  return {...generation, ...prediction, eosTokenId};
}
