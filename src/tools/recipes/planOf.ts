import type * as tf from '@tensorflow/tfjs';
import {IGNORE_INDEX} from '../../../models/batchLoss.ts';
import {countParameters} from '../../../models/summary.ts';
import {isBatch, type TrainingData} from '../../data/batches/batches.ts';
import type {Example} from '../../data/batches/collate.ts';
import type {BackendReport} from '../../training/backends/useBackend.ts';
import type {EarlierFiles} from '../../training/output/outputFolder.ts';
import {estimateMemory, isEstimable, type MemoryEstimate} from '../../training/run/estimateMemory.ts';
import type {TrainableCausalLM} from '../../training/trainable.ts';
import type {RecipeData} from './loadRecipeData.ts';
import type {Recipe} from './recipe.ts';
import type {RunSteps} from './runSteps.ts';

/** What a list of examples holds. */
export interface ExampleCounts {
  examples: number;
  tokens: number;
  /** Labels that count. */
  targets: number;
  /** Tokens of the longest example. */
  longest: number;
}

/** What a recipe will do, in numbers. */
export interface RecipePlan {
  recipe: Recipe;
  backend: BackendReport;
  parameters: {total: number; trainable: number};
  /** Undefined where there is none, or it is streamed. */
  data: {training?: ExampleCounts; validation?: ExampleCounts; prompts?: number};
  steps?: RunSteps;
  /** Tokens of the whole training, padding not counted; undefined where the data is streamed. */
  trainedTokens?: number;
  memory?: MemoryEstimate;
  /** The folder of the checkpoint to go on from, if any. */
  resumeFrom: string | false;
  /** What the training removes from its output folder when it begins, if anything. */
  overwrites?: EarlierFiles;
  /** Whether the run to go on from has done all its steps: nothing is trained, and its files stay as they are. */
  isFinished: boolean;
}

/** The plan of a recipe whose model and data are there; the model may be without memory. */
export function planOf(
  recipe: Recipe,
  model: TrainableCausalLM,
  data: RecipeData,
  {
    optimizer,
    ...run
  }: Pick<RecipePlan, 'backend' | 'steps' | 'resumeFrom' | 'overwrites' | 'isFinished'> & {
    optimizer: tf.Optimizer;
  },
): RecipePlan {
  const {steps} = run;
  const {batchSize, gradientAccumulationSteps} = recipe.fit;
  const training = data.training && countExamples(data.training);
  const trainedTokens =
    steps && training
      ? Math.round((training.tokens / training.examples) * examplesSeen(recipe, steps, training.examples))
      : undefined;
  const sequenceLength = 8 * Math.ceil((training?.longest ?? recipe.data.cutoffLength) / 8);
  const shape = {batchSize, sequenceLength, gradientAccumulationSteps, optimizer};
  return {
    recipe,
    parameters: countParameters(model),
    data: {
      training,
      validation: data.validation && countExamples(data.validation),
      prompts: data.prompts?.length,
    },
    ...run,
    trainedTokens,
    memory: steps && isEstimable(model) ? estimateMemory(model, shape) : undefined,
  };
}

function countExamples(data: TrainingData): ExampleCounts | undefined {
  if (!Array.isArray(data)) return undefined;
  const examples = data.filter((item): item is Example => !isBatch(item));
  let [tokens, targets, longest] = [0, 0, 0];
  for (const {inputIds, labels} of examples) {
    tokens += inputIds.length;
    longest = Math.max(longest, inputIds.length);
    targets +=
      labels?.reduce((count, label, t) => count + (t > 0 && label !== IGNORE_INDEX ? 1 : 0), 0) ??
      inputIds.length - 1;
  }
  return {examples: examples.length, tokens, targets, longest};
}

/** Whole epochs see every example; of the last one there may be a part only. */
function examplesSeen({fit}: Recipe, {perEpoch, total}: RunSteps, examples: number): number {
  const window = fit.batchSize * fit.gradientAccumulationSteps;
  const epochs = Math.floor(total / perEpoch!);
  return epochs * examples + Math.min(examples, (total % perEpoch!) * window);
}
