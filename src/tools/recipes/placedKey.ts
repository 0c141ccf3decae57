import type {z} from 'zod';
import type {LoRAOptions} from '../../../models/peft/loraOptions.ts';
import type {DatasetArgs, Stage} from '../../data/datasets/datasetArgs.ts';
import type {HubOptions} from '../../data/hub/hubOptions.ts';
import type {SplitArgs} from '../../data/loadDataset.ts';
import type {JoinOptions} from '../../training/cluster/joinCluster.ts';
import type {KtoLossArgs} from '../../training/losses/ktoLoss.ts';
import type {PpoLossArgs} from '../../training/losses/ppoLoss.ts';
import type {PreferenceLossArgs} from '../../training/losses/preferenceLoss.ts';
import type {OptimizerSettings} from '../../training/optimizers/optimizerByName.ts';
import type {AnswerOptions} from '../../training/prediction/answerScorer.ts';
import type {PredictOptions} from '../../training/prediction/predictDataset.ts';
import type {FitArgs} from '../../training/run/fitArgs.ts';
import type {CompileArgs} from '../../training/steps/trainingStep.ts';
import type {BenchmarkOptions} from '../evaluation/scoreBenchmark.ts';
import type {ExportArgs} from './exportModel.ts';

/** The arguments of this library's calls, and the settings for several calls, that a recipe's values become. */
export interface RecipeTargets {
  model: {
    nameOrPath: string;
    /** Folders or hub names, in the order of loading. */
    adapters: string[];
    createNewAdapter: boolean;
    neftuneNoiseAlpha: number;
    revision: string;
  };
  /** Tokens that the tokenizer gets, and whether the model gets rows for all that the tokenizer has. */
  vocabulary: {tokens: string[]; specialTokens: string[]; resize: boolean};
  hub: HubOptions;
  lora: LoRAOptions;
  /** Whether a new adapter is initialized by PiSSA, with how many iterations (−1: exactly), and converted at the end. */
  pissa: {init: boolean; iterations: number; convert: boolean};
  /** Number of blocks that train, the last ones, or the first if negative; and the modules in and outside them. */
  freeze: {blocks: number; modules: string[]; extraModules: string[]};
  data: Omit<DatasetArgs, 'stage'> & {stage: Stage | 'ppo'};
  splits: SplitArgs;
  /** The rate of an adapted embedding's B counts with `loraPlusRatio`. */
  optimizer: OptimizerSettings & {name: string; loraPlusEmbeddingRate: number};
  preference: PreferenceLossArgs;
  kto: KtoLossArgs;
  /** The model that answers are compared with: a folder or hub name, and its adapters in order. */
  reference: {nameOrPath?: string; adapters: string[]};
  ppo: Omit<PpoLossArgs, 'rewards' | 'reference'>;
  /** What scores answers: a folder or hub name with its adapters, or the address of a server. */
  rewardModel: {nameOrPath?: string; adapters: string[]; type: 'lora' | 'full' | 'api'};
  compile: CompileArgs;
  /** `ratio` is a share of the run; `steps` a number of steps, or a share of the run below 1. */
  warmup: {ratio: number; steps: number};
  /** The three intervals are whole numbers of steps, or shares of the run below 1; epochs may be a fraction. */
  fit: FitArgs;
  cluster: JoinOptions;
  generation: PredictOptions;
  prediction: PredictOptions;
  /** Answers at the evaluations of a training. */
  answers: AnswerOptions;
  /** Benchmark of knowledge that `tfjs-lora eval` runs instead of answering a data set. */
  benchmark: BenchmarkOptions & {task?: string; taskDir: string};
  export: Partial<ExportArgs>;
}

/** Name of an argument with its call, such as `fit.saveSteps`. */
type Target = {
  [group in keyof RecipeTargets]: `${group}.${keyof RecipeTargets[group] & string}`;
}[keyof RecipeTargets];

type ValueAt<T extends Target> = T extends `${infer Group extends keyof RecipeTargets}.${infer Name}`
  ? RecipeTargets[Group][Name & keyof RecipeTargets[Group]]
  : never;

/** A key of a recipe whose value becomes one or more arguments, converted if necessary. */
export interface PlacedKey<Schema extends z.ZodType, T extends string, Value> {
  schema: Schema;
  targets: readonly T[];
  convert(value: z.output<Schema>): Value;
}

/**
 * Makes a {@link PlacedKey}, which declares the arguments that a key's value becomes.
 *
 * @param target one argument, or several that get the same value
 * @param schema check of the recipe's value, with its default
 * @param description meaning of the key, for docs/recipes.md and the JSON schema
 * @param convert converts a recipe's value to the argument's. Default: unchanged
 */
export function to<const T extends Target, Schema extends z.ZodType<ValueAt<T>>>(
  target: T | readonly T[],
  schema: Schema,
  description: string,
): PlacedKey<Schema, T, z.output<Schema>>;
export function to<const T extends Target, Schema extends z.ZodType, Value extends ValueAt<T>>(
  target: T | readonly T[],
  schema: Schema,
  description: string,
  convert: (value: z.output<Schema>) => Value,
): PlacedKey<Schema, T, Value>;
export function to(
  target: string | readonly string[],
  schema: z.ZodType,
  description: string,
  convert: (value: unknown) => unknown = (value) => value,
): PlacedKey<z.ZodType, string, unknown> {
  return {schema: schema.describe(description), targets: [target].flat(), convert};
}

/** The arguments that a table's keys become, by the name of the call. */
export type PlacedBy<Rows> = {[group in keyof RecipeTargets]: PlacedIn<group, Rows>};

type PlacedIn<Group extends string, Rows> = {
  [key in keyof Rows as NameOf<Rows[key], Group>]: Rows[key] extends PlacedKey<z.ZodType, string, infer Value>
    ? Value
    : never;
};

type NameOf<Row, Group extends string> =
  Row extends PlacedKey<z.ZodType, infer T, unknown>
    ? T extends `${Group}.${infer Name}`
      ? Name
      : never
    : never;
