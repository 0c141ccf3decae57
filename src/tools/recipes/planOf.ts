import type * as tf from '@tensorflow/tfjs';
import {WASM_MEMORY} from '../../../layers/kernels/wasm/guardAllocation.ts';
import {IGNORE_INDEX} from '../../../models/batchLoss.ts';
import {countParameters} from '../../../models/summary.ts';
import {isBatch, type TrainingData} from '../../data/batches/batches.ts';
import {type AnyExample, rowsOf, rowsPerExample} from '../../data/batches/collate.ts';
import {KIND_OF_STAGE} from '../../data/datasets/datasetArgs.ts';
import type {BackendReport} from '../../training/backends/useBackend.ts';
import {ranks} from '../../training/cluster/ranks.ts';
import type {EarlierFiles} from '../../training/output/outputFolder.ts';
import {
  estimateMemory,
  isEstimable,
  longestRows,
  type MemoryEstimate,
} from '../../training/run/estimateMemory.ts';
import type {TrainableCausalLM} from '../../training/trainable.ts';
import type {RecipeData} from './loadRecipeData.ts';
import type {Recipe} from './recipe.ts';
import type {RunSteps} from './runSteps.ts';

/** The numbers of a list of examples. */
export interface ExampleCounts {
  examples: number;
  tokens: number;
  /** Number of labels that count. */
  targets: number;
  /** Number of tokens in the longest example. */
  longest: number;
}

/** The most tokens of a row that fit into some memory. */
export interface LongestRows {
  /** Bytes. */
  memory: number;
  /**
   * The memory: the user's budget, nine tenths of the card's, or one of several usual sizes if neither is known; all
   * that `wasm` can have, for a run that needs more.
   */
  source: 'budget' | 'card' | 'example' | 'wasm';
  /** 0 if not even the shortest rows fit. */
  tokens: number;
}

/** Share of a card's memory that a run may use: estimates may be a tenth too low. */
const CARD_SHARE = 0.9;
const GIB = 2 ** 30;
/** The memory of common cards. */
const EXAMPLES = [8, 12, 16, 24].map((size) => size * GIB);

/** The plan of a recipe: what it will do, in numbers. */
export interface RecipePlan {
  recipe: Recipe;
  backend: BackendReport;
  parameters: {total: number; trainable: number};
  /** Each is undefined if there is no such data, or if it is streamed. */
  data: {
    training?: ExampleCounts;
    validation?: ExampleCounts;
    prompts?: number;
    /** Number of prompts that each evaluation of a training answers. */
    validationPrompts?: number;
  };
  steps?: RunSteps;
  /** Number of tokens in the whole training without padding; undefined if the data is streamed. */
  trainedTokens?: number;
  memory?: MemoryEstimate;
  /** The longest rows that fit into memory, for each amount of it; none without a budget and a card. */
  longestRows?: LongestRows[];
  /** Folder of the checkpoint to resume from, or false. */
  resumeFrom: string | false;
  /** Files that the training removes from its output folder when it starts, if any. */
  overwrites?: EarlierFiles;
  /** Whether the run to resume has done all its steps. Then nothing is trained, and its files do not change. */
  isFinished: boolean;
}

/** Makes the plan of a recipe from its model, whose weights need not be allocated, and its data. */
export function planOf(
  recipe: Recipe,
  model: TrainableCausalLM,
  data: RecipeData,
  {
    optimizer,
    otherModels,
    memoryBudget,
    cardMemory,
    ...run
  }: Pick<RecipePlan, 'backend' | 'steps' | 'resumeFrom' | 'overwrites' | 'isFinished'> & {
    optimizer: tf.Optimizer;
    otherModels: TrainableCausalLM[];
    memoryBudget?: number;
    /** Bytes of the card's memory, if it is known. */
    cardMemory?: number;
  },
): RecipePlan {
  const {steps} = run;
  const {batchSize, gradientAccumulationSteps} = recipe.fit;
  const training = data.training && countExamples(data.training);
  const trainedTokens =
    steps && training
      ? Math.round((training.tokens / training.examples) * examplesSeen(recipe, steps, training.examples))
      : undefined;
  const {stage} = recipe.data;
  const newTokens = stage === 'ppo' ? (recipe.generation.maxNewTokens ?? 0) : 0;
  const longest = (training?.longest ?? recipe.data.cutoffLength) + newTokens;
  const sequenceLength = 8 * Math.ceil(Math.min(longest, model.config.maxPositionEmbeddings) / 8);
  const shape = {
    batchSize: batchSize * rowsPerExample(KIND_OF_STAGE[stage === 'ppo' ? 'sft' : stage]),
    gradientAccumulationSteps,
    optimizer,
    otherModels: otherModels.filter(isEstimable),
  };
  const memory = steps && isEstimable(model) ? estimateMemory(model, {...shape, sequenceLength}) : undefined;
  return {
    recipe,
    parameters: countParameters(model),
    data: {
      training,
      validation: data.validation && countExamples(data.validation),
      prompts: data.prompts?.length,
      validationPrompts: data.validationPrompts?.length,
    },
    ...run,
    trainedTokens,
    ...(memory &&
      isEstimable(model) && {
        memory,
        longestRows: memoriesOf(run.backend, memory, memoryBudget, cardMemory).map((each) => ({
          ...each,
          tokens: longestRows(model, shape, each.memory),
        })),
      }),
  };
}

/** Whether a backend computes on a graphics card. */
export const usesCard = ({backend, features}: BackendReport): boolean =>
  backend === 'webgpu' || features.includes('GPU');

/** Returns the amounts of memory for which a plan says what fits. */
function memoriesOf(
  backend: BackendReport,
  {total}: MemoryEstimate,
  budget?: number,
  card?: number,
): Omit<LongestRows, 'tokens'>[] {
  if (budget !== undefined) return [{memory: budget, source: 'budget'}];
  if (backend.backend === 'wasm' && total > WASM_MEMORY) return [{memory: WASM_MEMORY, source: 'wasm'}];
  if (!usesCard(backend)) return [];
  if (card !== undefined) return [{memory: CARD_SHARE * card, source: 'card'}];
  return EXAMPLES.map((memory) => ({memory: CARD_SHARE * memory, source: 'example'}));
}

function countExamples(data: TrainingData): ExampleCounts | undefined {
  if (!Array.isArray(data)) return undefined;
  const examples = data.filter((item) => !isBatch(item)) as AnyExample[];
  let [tokens, targets, longest] = [0, 0, 0];
  for (const {inputIds, labels} of examples.flatMap(rowsOf)) {
    tokens += inputIds.length;
    longest = Math.max(longest, inputIds.length);
    targets +=
      labels?.reduce((count, label, t) => count + (t > 0 && label !== IGNORE_INDEX ? 1 : 0), 0) ??
      inputIds.length - 1;
  }
  return {examples: examples.length, tokens, targets, longest};
}

/** Counts the examples of a run. Full epochs use every example; the last epoch may be partial. */
function examplesSeen({fit}: Recipe, {perEpoch, total}: RunSteps, examples: number): number {
  const window = fit.batchSize * fit.gradientAccumulationSteps * ranks().size;
  const epochs = Math.floor(total / perEpoch!);
  return epochs * examples + Math.min(examples, (total % perEpoch!) * window);
}
