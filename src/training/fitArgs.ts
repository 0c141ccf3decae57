import {TfjsLoraError} from '../../quant/errors.ts';
import type {TrainingData} from '../data/batches.ts';
import type {CallbackLike} from './callbacks.ts';
import type {ProgressStream} from './progressBar.ts';

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
  /** Of the shuffle and of dropout. Default 0. */
  seed?: number;
  /** Evaluated after each epoch, and every `evaluationSteps` where given. */
  validationData?: TrainingData;
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
}

/** What a run goes by. */
export type FitPlan = FitArgs &
  Required<
    Pick<
      FitArgs,
      'epochs' | 'initialEpoch' | 'batchSize' | 'gradientAccumulationSteps' | 'shuffle' | 'seed' | 'verbose'
    >
  > & {validationBatchSize: number};

/**
 * Settings with their defaults.
 *
 * @param isReadOnce whether the data allows no second epoch
 * @throws TfjsLoraError `INVALID_ARGUMENT` naming the setting
 */
export function resolveFitArgs(args: FitArgs, isReadOnce = false): FitPlan {
  const plan = {
    ...args,
    epochs: args.epochs ?? (args.maxSteps === undefined || isReadOnce ? 1 : Number.POSITIVE_INFINITY),
    initialEpoch: args.initialEpoch ?? 0,
    batchSize: args.batchSize ?? 4,
    gradientAccumulationSteps: args.gradientAccumulationSteps ?? 1,
    shuffle: args.shuffle ?? true,
    seed: args.seed ?? 0,
    verbose: args.verbose ?? 1,
    validationBatchSize: args.validationBatchSize ?? args.batchSize ?? 4,
  };
  const counts = [
    'epochs',
    'batchSize',
    'gradientAccumulationSteps',
    'validationBatchSize',
    'maxSteps',
    'evaluationSteps',
  ] as const;
  for (const name of counts) {
    const count = name === 'epochs' ? args.epochs : plan[name];
    if (count !== undefined) assertCount(`fitDataset ${name}`, count);
  }
  const {initialEpoch, epochs} = plan;
  if (!Number.isInteger(initialEpoch) || initialEpoch < 0 || initialEpoch >= epochs) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `fitDataset initialEpoch: expected an integer from 0 to below epochs (${epochs}), got ${initialEpoch}`,
    );
  }
  return plan;
}

/** @throws TfjsLoraError `INVALID_ARGUMENT` unless it is a positive integer */
export function assertCount(what: string, count: number): void {
  if (Number.isInteger(count) && count > 0) return;
  throw new TfjsLoraError('INVALID_ARGUMENT', `${what}: expected a positive integer, got ${count}`);
}
