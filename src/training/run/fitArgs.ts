import {didYouMean, TfjsLoraError} from '../../../quant/errors.ts';
import type {RunFolder} from '../../../quant/folders/runFolder.ts';
import {assertKnownOptions} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import type {RecordData} from '../../data/records/trainingRecord.ts';
import {ranks} from '../cluster/ranks.ts';
import {type AnswerMetric, type AnswerOptions, assertAnswerOptions} from '../prediction/answerScorer.ts';
import type {CallbackLike} from './callbacks.ts';

/** How often something is done: never, every few optimizer steps, or after each epoch. */
export type Cadence = 'no' | 'steps' | 'epoch';
const CADENCES: readonly Cadence[] = ['no', 'steps', 'epoch'];

/** When a checkpoint is written: as a {@link Cadence}, or after each evaluation that is the best so far. */
export type SaveCadence = Cadence | 'best';

/** Format of a log besides `trainer_log.jsonl`. */
export type ReportTarget = 'tensorboard' | 'csv';
const REPORT_TARGETS: readonly ReportTarget[] = ['tensorboard', 'csv'];

/** Stream for progress: a terminal is redrawn, anything else gets an occasional line. */
export interface ProgressStream {
  write(text: string): unknown;
  isTTY?: boolean;
}

export interface FitArgs {
  /**
   * Number of epochs; with `initialEpoch`, the epoch to stop before, counted from 0. Default 1, or as many as
   * `maxSteps` needs.
   */
  epochs?: number;
  /** Number of the first epoch, when a run continues. Default 0. */
  initialEpoch?: number;
  /** Examples in a batch. Default 4. */
  batchSize?: number;
  /** Batches of each rank in an optimizer step; an epoch's last step may have fewer. Default 1. */
  gradientAccumulationSteps?: number;
  /** Maximum number of optimizer steps. Default: no limit. */
  maxSteps?: number;
  /** Whether a list of examples is shuffled again in each epoch. Default true. */
  shuffle?: boolean;
  /**
   * Whether a batch contains examples of about the same length, which are chosen again in each epoch; only for a list
   * of examples. Default false.
   */
  groupByLength?: boolean;
  /** Seed for the shuffle and for dropout. Default 0. */
  seed?: number;
  /** Data that is evaluated as often as `evaluationStrategy` says. Default: none. */
  validationData?: RecordData;
  /**
   * When to evaluate; `no` evaluates once, at the end. Default: after each epoch, or every `evaluationSteps` if given.
   */
  evaluationStrategy?: Cadence;
  evaluationSteps?: number;
  /** Default: `batchSize`. */
  validationBatchSize?: number;
  /**
   * Whether each evaluation also answers the prompts of `validationData` and scores the answers, as `predictDataset`
   * does: BLEU-4 and ROUGE under LLaMA-Factory's names, and the standard English ones. Default false, or true with
   * `metrics`.
   */
  predictWithGenerate?: boolean;
  /** Your own scores of these answers, by the names under which they are logged. Default: none. */
  metrics?: Record<string, AnswerMetric>;
  /** Settings of these answers: which prompts to answer, and how to generate. Default: the model's. */
  generation?: AnswerOptions;
  callbacks?: CallbackLike | CallbackLike[];
  /** 1 shows progress, 0 is silent. Default 1. */
  verbose?: number;
  /** Default: one line below the cell in a tslab notebook, otherwise the process's standard error, if there is one. */
  progressStream?: ProgressStream;
  /** Id of the padding token. Default: the model's, or else 0. */
  padTokenId?: number;

  /**
   * Folder for the run's checkpoints, logs, results and weights: a path on disk, or in a browser a `StorageFolder` of
   * `tfjs-lora/browser`. Default: none, nothing is written.
   */
  outputDir?: string | RunFolder;
  /**
   * Whether to remove a finished run from `outputDir`; with `resumeFromCheckpoint: false`, also an unfinished run.
   * Default false: an earlier run is an error, unless it was stopped before it saved anything.
   */
  overwriteOutputDir?: boolean;
  /** When to log. Default `steps`. */
  loggingStrategy?: Cadence;
  /** Steps between lines of the log. Default 10. */
  loggingSteps?: number;
  /**
   * When to write a checkpoint; `steps` also writes one after the last step, and `best` one after each evaluation that
   * is the best so far. Default `steps`.
   */
  saveStrategy?: SaveCadence;
  /** Steps between checkpoints. Default 500, or `evaluationSteps` if the best model is loaded at the end. */
  saveSteps?: number;
  /** Number of checkpoints to keep, always including the newest and the best. Default: all. */
  saveTotalLimit?: number;
  /** Whether to return to the checkpoint with the best evaluation after the last step. Default false. */
  loadBestModelAtEnd?: boolean;
  /**
   * Metric that decides which evaluation is the best: `loss`, `perplexity`, a metric of the loss, or a score of the
   * answers such as `rouge-l`; transformers' prefix `eval_` is accepted. Default `loss`.
   */
  metricForBestModel?: string;
  /** Whether a greater number is better. Default: false for `loss` and `perplexity`, true for others. */
  greaterIsBetter?: boolean;
  /** Number of consecutive evaluations without a better one after which training ends. Default: no limit. */
  earlyStoppingPatience?: number;
  /** Amount by which the metric must improve to count as better. Default 0. */
  earlyStoppingThreshold?: number;
  /**
   * Checkpoint to resume from: its folder, or an output folder, which selects its newest whole checkpoint; `true`
   * selects the newest in `outputDir`. Default: training starts from the beginning.
   */
  resumeFromCheckpoint?: boolean | string | RunFolder;
  /** Additional logs to write. Default: none. */
  reportTo?: ReportTarget | ReportTarget[];
  /** Whether to write `training_loss` and `training_eval_loss` as PNG and SVG at the end. Default false. */
  plotLoss?: boolean;
  /**
   * Number of consecutive steps with a loss or gradient that is not finite after which the run ends with an error. Such
   * a step is skipped and changes no weight. Default 5.
   */
  maxNonFiniteSteps?: number;
  /** Maximum bytes for the run's estimated peak; a larger run is refused. Default: no limit. */
  memoryBudget?: number;
  /** Signal to stop: training finishes the current step, writes a checkpoint and ends. */
  signal?: AbortSignal;
}

/** Declaration of a setting: its kind, its default if that is constant, and what it needs beside it. */
interface FitField {
  kind?: 'count' | 'cadence';
  default?: unknown;
  needs?: 'outputDir' | 'validationData';
}
const FIT_FIELDS = {
  epochs: {kind: 'count'},
  initialEpoch: {default: 0},
  batchSize: {kind: 'count', default: 4},
  gradientAccumulationSteps: {kind: 'count', default: 1},
  maxSteps: {kind: 'count'},
  shuffle: {default: true},
  groupByLength: {default: false},
  seed: {default: 0},
  validationData: {},
  evaluationStrategy: {kind: 'cadence'},
  evaluationSteps: {kind: 'count'},
  validationBatchSize: {kind: 'count'},
  predictWithGenerate: {needs: 'validationData'},
  metrics: {needs: 'validationData'},
  generation: {},
  callbacks: {},
  verbose: {default: 1},
  progressStream: {},
  padTokenId: {},
  outputDir: {},
  overwriteOutputDir: {needs: 'outputDir'},
  loggingStrategy: {kind: 'cadence', default: 'steps'},
  loggingSteps: {kind: 'count', default: 10},
  saveStrategy: {default: 'steps', needs: 'outputDir'},
  saveSteps: {kind: 'count', needs: 'outputDir'},
  saveTotalLimit: {kind: 'count', needs: 'outputDir'},
  loadBestModelAtEnd: {needs: 'outputDir'},
  metricForBestModel: {},
  greaterIsBetter: {},
  earlyStoppingPatience: {kind: 'count', needs: 'validationData'},
  earlyStoppingThreshold: {},
  resumeFromCheckpoint: {},
  reportTo: {needs: 'outputDir'},
  plotLoss: {needs: 'outputDir'},
  maxNonFiniteSteps: {kind: 'count', default: 5},
  memoryBudget: {kind: 'count'},
  signal: {},
} as const satisfies {readonly [name in keyof Required<FitArgs>]: FitField};
type Fields = typeof FIT_FIELDS;
const FIELDS = Object.entries<FitField>(FIT_FIELDS) as [keyof FitArgs, FitField][];
const DEFAULTS = Object.fromEntries(
  FIELDS.filter(([, field]) => 'default' in field).map(([name, field]) => [name, field.default]),
);

type Defaulted =
  | {[name in keyof Fields]: Fields[name] extends {default: unknown} ? name : never}[keyof Fields]
  | 'epochs'
  | 'validationBatchSize'
  | 'saveSteps';

/** Settings of a run, complete with their defaults. */
export type FitPlan = Omit<FitArgs, 'reportTo'> &
  Required<Pick<FitArgs, Defaulted>> & {
    reportTo: ReportTarget[];
    evaluatesEachEpoch: boolean;
    predictWithGenerate: boolean;
    /** Batches of all ranks in an optimizer step. */
    batchesPerStep: number;
  };

/**
 * Checks settings and fills in their defaults.
 *
 * @param isReadOnce whether the data cannot be read for a second epoch
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming the setting
 */
export function resolveFitArgs(args: FitArgs, isReadOnce = false): FitPlan {
  assertKnownOptions('fitDataset', args, FIT_FIELDS);
  const given = Object.fromEntries(Object.entries(args).filter(([, value]) => value !== undefined));
  const {evaluationStrategy, evaluationSteps, loadBestModelAtEnd = false} = args;
  const plan = {
    validationBatchSize: args.batchSize ?? 4,
    epochs: args.maxSteps === undefined || isReadOnce ? 1 : Number.POSITIVE_INFINITY,
    saveSteps: loadBestModelAtEnd && evaluationSteps ? evaluationSteps : 500,
    ...DEFAULTS,
    ...given,
    evaluatesEachEpoch: evaluationStrategy === undefined || evaluationStrategy === 'epoch',
    evaluationSteps:
      evaluationStrategy === undefined || evaluationStrategy === 'steps' ? evaluationSteps : undefined,
    predictWithGenerate: args.predictWithGenerate ?? args.metrics !== undefined,
    reportTo: [args.reportTo ?? []].flat(),
    batchesPerStep: (args.gradientAccumulationSteps ?? 1) * ranks().size,
  } as FitPlan;
  if (typeof plan.seed !== 'number' || Number.isNaN(plan.seed)) {
    throw new TfjsLoraError('INVALID_ARGUMENT', `fitDataset seed: expected a number, got ${show(args.seed)}`);
  }
  for (const [name, {kind}] of FIELDS) {
    const value = args[name];
    if (kind === 'count' && value !== undefined) assertCount(`fitDataset ${name}`, value as number);
    if (kind === 'cadence') assertOneOf(`fitDataset ${name}`, value as Cadence | undefined, CADENCES);
  }
  assertOneOf('fitDataset saveStrategy', args.saveStrategy, [...CADENCES, 'best']);
  for (const target of plan.reportTo) assertOneOf('fitDataset reportTo', target, REPORT_TARGETS);
  const {initialEpoch, epochs} = plan;
  if (!Number.isInteger(initialEpoch) || initialEpoch < 0 || initialEpoch >= epochs) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `fitDataset initialEpoch: expected an integer ≥ 0 and below epochs (${epochs}), got ${initialEpoch}`,
    );
  }
  assertCombination(args, plan);
  return plan;
}

const isOn = (value: unknown) =>
  value !== undefined && value !== false && value !== 'no' && (!Array.isArray(value) || value.length > 0);

/** Checks settings that need one another. */
function assertCombination(args: FitArgs, plan: FitPlan): void {
  const needs = (what: string, needed: string, isThere: boolean) => {
    if (isThere) return;
    throw new TfjsLoraError('INVALID_ARGUMENT', `fitDataset ${what}: expected ${needed} with it, got none`);
  };
  for (const [name, field] of FIELDS) {
    if (field.needs && isOn(args[name])) needs(name, field.needs, args[field.needs] !== undefined);
  }
  if (args.resumeFromCheckpoint === true)
    needs('resumeFromCheckpoint: true', 'outputDir', args.outputDir !== undefined);
  const hasValidation = args.validationData !== undefined;
  if (args.evaluationStrategy === 'steps')
    needs('evaluationStrategy: steps', 'evaluationSteps', args.evaluationSteps !== undefined);
  if (args.generation !== undefined) {
    assertAnswerOptions(args.generation);
    const {samples} = args.generation;
    if (samples !== undefined) assertCount('fitDataset generation.samples', samples);
    needs('generation', 'predictWithGenerate or metrics', plan.predictWithGenerate);
  }
  if (args.metrics !== undefined)
    needs('metrics', 'predictWithGenerate other than false', plan.predictWithGenerate);
  if (args.saveStrategy === 'best') needs('saveStrategy: best', 'validationData', hasValidation);
  if (!args.loadBestModelAtEnd) return;
  needs('loadBestModelAtEnd', 'validationData', hasValidation);
  const {saveStrategy, saveSteps, evaluationSteps, evaluatesEachEpoch} = plan;
  const savesWhereItEvaluates =
    saveStrategy === 'best' ||
    (saveStrategy === 'epoch'
      ? evaluatesEachEpoch
      : saveStrategy === 'steps' && evaluationSteps !== undefined && saveSteps % evaluationSteps === 0);
  if (savesWhereItEvaluates) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    'fitDataset loadBestModelAtEnd: expected checkpoints only at evaluations, got ' +
      `saving by ${saveStrategy}${saveStrategy === 'steps' ? ` (${saveSteps})` : ''} and evaluation by ` +
      `${evaluationSteps === undefined ? (evaluatesEachEpoch ? 'epoch' : 'no') : `steps (${evaluationSteps})`}. ` +
      'Make saveSteps a multiple of evaluationSteps, or both strategies epoch.',
  );
}

/**
 * Checks that a count is a positive integer.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` otherwise
 */
export function assertCount(what: string, count: number): void {
  if (Number.isInteger(count) && count > 0) return;
  throw new TfjsLoraError('INVALID_ARGUMENT', `${what}: expected a positive integer, got ${show(count)}`);
}

function assertOneOf(what: string, value: string | undefined, known: readonly string[]): void {
  if (value === undefined || known.includes(value)) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${what}: expected ${known.join(', ')}, got ${show(value)}.${didYouMean(value, known)}`,
  );
}
