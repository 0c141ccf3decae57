import type {Tokenizer} from '../../../models/tokenizer.ts';
import {nearestNames, TfjsLoraError} from '../../../quant/errors.ts';
import type {OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import type {HubOptions} from '../hub/hubOptions.ts';
import {type ResolvedTemplate, resolveTemplate} from '../templates/templateRegistry.ts';
import type {DatasetInfo} from './datasetInfo.ts';
import {MIX_STRATEGIES, type MixStrategy} from './mixDatasets.ts';

/** How far loading has come. */
export interface DataProgress {
  phase: 'downloading' | 'reading' | 'tokenizing';
  /** The file, or the data sets. */
  what: string;
  /** Bytes when downloading, records else. */
  done: number;
  total?: number;
}

/** Which data to load, and how it becomes token ids. */
export interface DatasetArgs {
  /** Names in `dataset_info.json`; one text may hold several, apart by commas. */
  dataset: string | string[];
  /**
   * The folder of `dataset_info.json`. Default `data`. `ONLINE`: the names are ids of hub data sets; `REMOTE:org/name`:
   * the file is in that hub data set. Or the file's contents, with file names from the working directory.
   */
  datasetDir?: string | DatasetInfo;
  /** Name of a template. Default the tokenizer's own chat template, or `empty` where it has none. */
  template?: string;
  tokenizer: Tokenizer;
  /** `sft`: answers to prompts; `pt`: plain text. Default `sft`. */
  stage?: 'sft' | 'pt';
  /** Tokens of an example at most. Default 2048. */
  cutoffLength?: number;
  /** The first so many records of each data set. Default all. */
  maxSamples?: number;
  /** Learn prompts too. Default false. */
  trainOnPrompt?: boolean;
  /** Learn the last answer only; it also keeps the most room when a conversation is cut. Default false. */
  maskHistory?: boolean;
  /** Several examples in one row. Default for `pt` alone. */
  packing?: boolean;
  /** Default `concat`. */
  mixStrategy?: MixStrategy;
  /** The chance of each data set, when interleaving. Default by turns. */
  interleaveProbs?: number[];
  /** Worker threads for tokenizing. Default none. */
  workers?: number;
  /** Folder of tokenized data sets. Default none: they are made anew. */
  cacheDir?: string;
  /** Make them anew although they are in `cacheDir`. Default false. */
  overwriteCache?: boolean;
  /** Of splits, mixtures and shuffles. Default 42. */
  seed?: number;
  /** Read anew in each epoch instead of keeping all in memory. Default false. */
  streaming?: boolean;
  /** Records among which a stream is shuffled. Default 16384. */
  bufferSize?: number;
  /** The system text where the data has none, in place of the template's. */
  defaultSystem?: string;
  /** Today's date where a template prints one, such as `26 Jul 2024`. Default today. */
  dateString?: string;
  hub?: HubOptions;
  onProgress?: (progress: DataProgress) => void;
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
  hub: true,
  onProgress: true,
} satisfies OptionNames<DatasetArgs>;

/** What loading goes by. */
export type DatasetPlan = Omit<DatasetArgs, 'template' | 'packing'> & {
  dataset: string[];
  template: ResolvedTemplate;
  /** Tokens in a row; absent without packing. */
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

/**
 * Settings with their defaults.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming the setting
 */
export function resolveDatasetArgs(args: DatasetArgs): DatasetPlan {
  const {tokenizer, stage = 'sft', packing = stage === 'pt', defaultSystem, dateString} = args;
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
  if (plan.dataset.length === 0) throw mistake('dataset', 'the name of a data set', show(args.dataset));
  if (stage !== 'sft' && stage !== 'pt') throw mistake('stage', "'sft' or 'pt'", `'${stage}'`);
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
  const template = resolveTemplate(args.template, tokenizer, {defaultSystem, dateString});
  if (plan.trainOnPrompt && template.kind === 'slots' && template.template.efficientEos) {
    throw mistake(
      'trainOnPrompt',
      'a template whose answers have their own end token',
      `${template.template.name}, which has efficientEos`,
    );
  }
  // LLaMA-Factory takes a token off the cut when packing is asked for, not when it comes with plain text by itself.
  const cutoffLength = plan.cutoffLength - (args.packing ? 1 : 0);
  return {...plan, template, cutoffLength, ...(packing && {packLength: cutoffLength})};
}

/** Names apart by commas, or a list of them. */
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
