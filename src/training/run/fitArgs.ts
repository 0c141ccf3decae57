import {nearestNames, TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import type {TrainingData} from '../../data/batches/batches.ts';
import type {CallbackLike} from './callbacks.ts';

/** How often something is done: never, every so many optimizer steps, or after each epoch. */
export type Cadence = 'no' | 'steps' | 'epoch';
const CADENCES: readonly Cadence[] = ['no', 'steps', 'epoch'];

/** Where the log goes besides `trainer_log.jsonl`. */
export type ReportTarget = 'tensorboard' | 'csv';
const REPORT_TARGETS: readonly ReportTarget[] = ['tensorboard', 'csv'];

/** Where progress is written: a terminal is redrawn, anything else gets a line now and then. */
export interface ProgressStream {
  write(text: string): unknown;
  isTTY?: boolean;
}

export interface FitArgs {
  /** The epoch to stop before, counted from 0. Default 1, or as many as `maxSteps` needs where only that is given. */
  epochs?: number;
  /** The first epoch's number, when a run goes on. Default 0. */
  initialEpoch?: number;
  /** Default 4. */
  batchSize?: number;
  /** Batches in one optimizer step; an epoch's last step may have fewer. Default 1. */
  gradientAccumulationSteps?: number;
  /** Stop after so many steps. Default none. */
  maxSteps?: number;
  /** Shuffle a list of examples anew each epoch. Default true. */
  shuffle?: boolean;
  /** Put examples of about one length into a batch, anew each epoch; for a list of examples. Default false. */
  groupByLength?: boolean;
  /** Of the shuffle and of dropout. Default 0. */
  seed?: number;
  /** Evaluated as `evaluationStrategy` says. */
  validationData?: TrainingData;
  /** `no`: once, at the end. Default: after each epoch, and every `evaluationSteps` where given. */
  evaluationStrategy?: Cadence;
  evaluationSteps?: number;
  /** Default `batchSize`. */
  validationBatchSize?: number;
  callbacks?: CallbackLike | CallbackLike[];
  /** 1 shows progress on `progressStream`, 0 is silent. Default 1. */
  verbose?: number;
  /** Default the process's standard error, where there is one. */
  progressStream?: ProgressStream;
  /** Default the model's, else 0. */
  padTokenId?: number;

  /** Folder for the checkpoints, logs, results and weights of the run. Default none: nothing is written. */
  outputDir?: string;
  /**
   * Remove what a finished run left in `outputDir`; with `resumeFromCheckpoint: false` an unfinished one too. Default false:
   * an earlier run is an error, but for one that was stopped before it saved anything.
   */
  overwriteOutputDir?: boolean;
  /** Default `steps`. */
  loggingStrategy?: Cadence;
  /** Default 10. */
  loggingSteps?: number;
  /** When a checkpoint is written; `steps` writes one after the last step too. Default `steps`. */
  saveStrategy?: Cadence;
  /** Default 500, or `evaluationSteps` where the best model is loaded at the end. */
  saveSteps?: number;
  /** Checkpoints to keep; the newest and the best always stay. Default all. */
  saveTotalLimit?: number;
  /** After the last step, go back to the checkpoint with the lowest validation loss. Default false. */
  loadBestModelAtEnd?: boolean;
  /** End after so many evaluations in a row that brought no lower loss. Default none. */
  earlyStoppingPatience?: number;
  /** What a loss must fall by to count as lower. Default 0. */
  earlyStoppingThreshold?: number;
  /**
   * Go on where a run was broken off: from a checkpoint's folder, or with an output folder or `true` from the newest whole one in
   * that folder or in `outputDir`. Default: begin.
   */
  resumeFromCheckpoint?: boolean | string;
  /** Default none. */
  reportTo?: ReportTarget | ReportTarget[];
  /** Write `training_loss` and `training_eval_loss` as PNG and SVG at the end. Default false. */
  plotLoss?: boolean;
  /**
   * Steps in a row whose loss or gradient is not finite before the run is given up; each is skipped, and changes no
   * weight. Default 5.
   */
  maxNonFiniteSteps?: number;
  /** Refuse a run whose estimated peak is above so many bytes. Default none. */
  memoryBudget?: number;
  /** Once aborted, training finishes the step at hand, writes a checkpoint and ends. */
  signal?: AbortSignal;
}

/** What is declared of a setting: its kind, its default where that is always the same, and what it needs beside it. */
interface FitField {
  kind?: 'count' | 'cadence';
  default?: unknown;
  needs?: 'outputDir';
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
  callbacks: {},
  verbose: {default: 1},
  progressStream: {},
  padTokenId: {},
  outputDir: {},
  overwriteOutputDir: {needs: 'outputDir'},
  loggingStrategy: {kind: 'cadence', default: 'steps'},
  loggingSteps: {kind: 'count', default: 10},
  saveStrategy: {kind: 'cadence', default: 'steps', needs: 'outputDir'},
  saveSteps: {kind: 'count', needs: 'outputDir'},
  saveTotalLimit: {kind: 'count', needs: 'outputDir'},
  loadBestModelAtEnd: {needs: 'outputDir'},
  earlyStoppingPatience: {kind: 'count'},
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

/** What a run goes by. */
export type FitPlan = Omit<FitArgs, 'reportTo'> &
  Required<Pick<FitArgs, Defaulted>> & {reportTo: ReportTarget[]; evaluatesEachEpoch: boolean};

/**
 * Settings with their defaults.
 *
 * @param isReadOnce whether the data allows no second epoch
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
    reportTo: [args.reportTo ?? []].flat(),
  } as FitPlan;
  for (const [name, {kind}] of FIELDS) {
    const value = args[name];
    if (kind === 'count' && value !== undefined) assertCount(`fitDataset ${name}`, value as number);
    if (kind === 'cadence') assertOneOf(`fitDataset ${name}`, value as Cadence | undefined, CADENCES);
  }
  for (const target of plan.reportTo) assertOneOf('fitDataset reportTo', target, REPORT_TARGETS);
  const {initialEpoch, epochs} = plan;
  if (!Number.isInteger(initialEpoch) || initialEpoch < 0 || initialEpoch >= epochs) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `fitDataset initialEpoch: expected an integer from 0 to below epochs (${epochs}), got ${initialEpoch}`,
    );
  }
  assertCombination(args, plan);
  return plan;
}

const isOn = (value: unknown) =>
  value !== undefined && value !== false && value !== 'no' && (!Array.isArray(value) || value.length > 0);

/** Settings that need one another. */
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
  if (args.earlyStoppingPatience !== undefined)
    needs('earlyStoppingPatience', 'validationData', hasValidation);
  if (!args.loadBestModelAtEnd) return;
  needs('loadBestModelAtEnd', 'validationData', hasValidation);
  const {saveStrategy, saveSteps, evaluationSteps, evaluatesEachEpoch} = plan;
  const savesWhereItEvaluates =
    saveStrategy === 'epoch'
      ? evaluatesEachEpoch
      : saveStrategy === 'steps' && evaluationSteps !== undefined && saveSteps % evaluationSteps === 0;
  if (savesWhereItEvaluates) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    'fitDataset loadBestModelAtEnd: expected checkpoints only where there is an evaluation, got ' +
      `saving by ${saveStrategy}${saveStrategy === 'steps' ? ` (${saveSteps})` : ''} and evaluation by ` +
      `${evaluationSteps === undefined ? (evaluatesEachEpoch ? 'epoch' : 'no') : `steps (${evaluationSteps})`}. ` +
      'Make saveSteps a multiple of evaluationSteps, or both strategies epoch.',
  );
}

/** @throws TfjsLoraError `INVALID_ARGUMENT` unless it is a positive integer */
export function assertCount(what: string, count: number): void {
  if (Number.isInteger(count) && count > 0) return;
  throw new TfjsLoraError('INVALID_ARGUMENT', `${what}: expected a positive integer, got ${count}`);
}

function assertOneOf(what: string, value: string | undefined, known: readonly string[]): void {
  if (value === undefined || known.includes(value)) return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${what}: expected ${known.join(', ')}, got ${show(value)}. Did you mean ${nearestNames(value, known, 1)[0]}?`,
  );
}
