import type {Tokenizer} from '../../../models/tokenizer.ts';
import {nearestNames, TfjsLoraError} from '../../../quant/errors.ts';
import type {OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import type {ExampleKind} from '../batches/collate.ts';
import type {HubOptions} from '../hub/hubOptions.ts';
import {type ResolvedTemplate, resolveTemplate} from '../templates/templateRegistry.ts';
import type {DatasetInfo} from './datasetInfo.ts';
import {MIX_STRATEGIES, type MixStrategy} from './mixDatasets.ts';

/** Progress of loading. */
export interface DataProgress {
  phase: 'downloading' | 'reading' | 'tokenizing';
  /** Name of the file or of the data sets. */
  what: string;
  /** Bytes when downloading, otherwise records. */
  done: number;
  total?: number;
}

/** The stage of training that the data is for. */
export type Stage = 'sft' | 'pt' | 'dpo' | 'rm' | 'kto';

/** What examples are in each stage. */
export const KIND_OF_STAGE: Readonly<Record<Stage, ExampleKind>> = {
  sft: 'answer',
  pt: 'answer',
  dpo: 'pair',
  rm: 'pair',
  kto: 'verdict',
};

/** Options that choose the data to load and how it becomes token ids. */
export interface DatasetArgs {
  /** Names in `dataset_info.json`: a list, or one string with commas between names. */
  dataset: string | string[];
  /**
   * Folder of `dataset_info.json`, or the contents of that file, with file names relative to the working directory.
   * With `ONLINE`, the names are ids of data sets on the hub; with `REMOTE:org/name`, the file is in that data set of
   * the hub. Default `data`.
   */
  datasetDir?: string | DatasetInfo;
  /** Name of a template. Default: the tokenizer's own chat template, or `empty` when it has none. */
  template?: string;
  tokenizer: Tokenizer;
  /**
   * `sft` trains on answers to prompts, `pt` on plain text; `dpo` and `rm` on pairs of answers, of data sets with
   * `ranking`; `kto` on answers with a verdict, of data sets with a column `kto_tag`. Default `sft`.
   */
  stage?: Stage;
  /** Maximum number of tokens in an example. Default 2048. */
  cutoffLength?: number;
  /** Number of records to take from the start of each data set. Default: all. */
  maxSamples?: number;
  /** Whether prompts are trained on too. Default false. */
  trainOnPrompt?: boolean;
  /**
   * Whether only the last answer is trained on; it then also keeps the most room when a conversation is cut. Default
   * false.
   */
  maskHistory?: boolean;
  /** Whether several examples share a row. Default: only for `pt`. */
  packing?: boolean;
  /** Default `concat`. */
  mixStrategy?: MixStrategy;
  /** Probability of each data set when interleaving. Default: they take turns. */
  interleaveProbs?: number[];
  /** Number of worker threads for tokenizing. Default: none. */
  workers?: number;
  /** Folder for tokenized data sets. Default: none, data is tokenized each time. */
  cacheDir?: string;
  /** Whether to tokenize again even when `cacheDir` has the data. Default false. */
  overwriteCache?: boolean;
  /** Seed for splits, mixtures and shuffles. Default 42. */
  seed?: number;
  /** Whether to read the data again in each epoch instead of keeping it all in memory. Default false. */
  streaming?: boolean;
  /** Number of records in the buffer that shuffles a stream. Default 16384. */
  bufferSize?: number;
  /** System text for records without one, instead of the template's. */
  defaultSystem?: string;
  /** Today's date for templates that print one, such as `26 Jul 2024`. Default: today. */
  dateString?: string;
  /** Whether answers contain thoughts, with the template of a reasoning model. Default true. */
  enableThinking?: boolean;
  /** Whether earlier answers keep their thoughts if only the last answer is learned. Default false. */
  preserveThinking?: boolean;
  hub?: HubOptions;
  onProgress?: (progress: DataProgress) => void;
  /** Stops the loading, or the reading of a stream, with the signal's reason as the error. */
  signal?: AbortSignal;
}

export const DATASET_OPTIONS = {
  dataset: true,
  datasetDir: true,
  template: true,
  tokenizer: true,
  stage: true,
  cutoffLength: true,
  maxSamples: true,
  trainOnPrompt: true,
  maskHistory: true,
  packing: true,
  mixStrategy: true,
  interleaveProbs: true,
  workers: true,
  cacheDir: true,
  overwriteCache: true,
  seed: true,
  streaming: true,
  bufferSize: true,
  defaultSystem: true,
  dateString: true,
  enableThinking: true,
  preserveThinking: true,
  hub: true,
  onProgress: true,
  signal: true,
} satisfies OptionNames<DatasetArgs>;

/** Settings of loading, complete with their defaults. */
export type DatasetPlan = Omit<DatasetArgs, 'template' | 'packing'> & {
  dataset: string[];
  template: ResolvedTemplate;
  /** Number of tokens in a row; absent without packing. */
  packLength?: number;
} & Required<
    Pick<
      DatasetArgs,
      | 'datasetDir'
      | 'stage'
      | 'cutoffLength'
      | 'trainOnPrompt'
      | 'maskHistory'
      | 'mixStrategy'
      | 'seed'
      | 'streaming'
      | 'bufferSize'
    >
  >;

const STAGES = Object.keys(KIND_OF_STAGE);

/**
 * Checks settings and fills in their defaults.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming the setting
 */
export function resolveDatasetArgs(args: DatasetArgs): DatasetPlan {
  const {tokenizer, stage = 'sft', packing = stage === 'pt', defaultSystem, dateString} = args;
  const {enableThinking, preserveThinking} = args;
  const plan = {
    ...args,
    dataset: namesIn(args.dataset),
    datasetDir: args.datasetDir ?? 'data',
    stage,
    cutoffLength: args.cutoffLength ?? 2048,
    trainOnPrompt: args.trainOnPrompt ?? false,
    maskHistory: args.maskHistory ?? false,
    mixStrategy: args.mixStrategy ?? 'concat',
    seed: args.seed ?? 42,
    streaming: args.streaming ?? false,
    bufferSize: args.bufferSize ?? 16384,
  };
  if (!tokenizer || typeof tokenizer !== 'object')
    throw mistake('tokenizer', 'a Tokenizer', show(tokenizer), "Pass the model's: model.tokenizer.");
  if (plan.dataset.length === 0) throw mistake('dataset', 'the name of a data set', show(args.dataset));
  if (!STAGES.includes(stage)) throw mistake('stage', STAGES.join(', '), show(stage));
  if (KIND_OF_STAGE[stage] !== 'answer' && packing)
    throw mistake('packing', `false with stage ${stage}, whose examples are not packed`, 'true');
  for (const key of ['cutoffLength', 'maxSamples', 'bufferSize'] as const) {
    const count = plan[key];
    if (count !== undefined && !(Number.isInteger(count) && count > 0))
      throw mistake(key, 'a positive integer', `${count}`);
  }
  for (const key of ['workers', 'seed'] as const) {
    const count = plan[key];
    if (count !== undefined && !(Number.isSafeInteger(count) && count >= 0))
      throw mistake(key, 'an integer of 0 or more', `${count}`);
  }
  assertMixture(plan.mixStrategy, plan.dataset.length, args.interleaveProbs);
  if (plan.streaming && args.maxSamples !== undefined)
    throw mistake('maxSamples', 'none when streaming', `${args.maxSamples}`, 'Use maxSteps of fitDataset.');
  if (plan.maskHistory && plan.trainOnPrompt)
    throw mistake('maskHistory', 'either maskHistory or trainOnPrompt', 'both');
  const template = resolveTemplate(args.template, tokenizer, {
    defaultSystem,
    dateString,
    enableThinking,
    preserveThinking,
  });
  if (plan.trainOnPrompt && template.kind === 'slots' && template.template.efficientEos) {
    throw mistake(
      'trainOnPrompt',
      'a template whose answers have their own end token',
      `${template.template.name}, which has efficientEos`,
    );
  }
  // LLaMA-Factory shortens the limit by one token when packing is requested, but not when it is the default of plain
  // text.
  const cutoffLength = plan.cutoffLength - (args.packing ? 1 : 0);
  return {...plan, template, cutoffLength, ...(packing && {packLength: cutoffLength})};
}

/** Splits names at commas; a list stays a list. */
export function namesIn(names: string | readonly string[] = []): string[] {
  const list = typeof names === 'string' ? names.split(',') : names;
  return list.map((name) => name.trim()).filter((name) => name !== '');
}

function assertMixture(strategy: MixStrategy, count: number, probabilities?: number[]): void {
  if (!MIX_STRATEGIES.includes(strategy)) {
    throw mistake(
      'mixStrategy',
      `one of ${MIX_STRATEGIES.join(', ')}`,
      `'${strategy}'`,
      `Nearest: ${nearestNames(strategy, MIX_STRATEGIES, 1)}.`,
    );
  }
  if (probabilities === undefined) return;
  if (strategy === 'concat') throw mistake('interleaveProbs', 'a mixStrategy that interleaves', "'concat'");
  if (probabilities.length !== count)
    throw mistake(
      'interleaveProbs',
      `${count} probabilities, one for each data set`,
      `${probabilities.length}`,
    );
  const sum = probabilities.reduce((total, each) => total + each, 0);
  if (probabilities.some((each) => !(each > 0)) || Math.abs(sum - 1) > 1e-6)
    throw mistake('interleaveProbs', 'probabilities above 0 whose sum is 1', probabilities.join(', '));
}

function mistake(key: string, expected: string, got: string, advice = ''): TfjsLoraError {
  return new TfjsLoraError(
    'INVALID_ARGUMENT',
    `dataset ${key}: expected ${expected}, got ${got}.${advice && ` ${advice}`}`,
  );
}
