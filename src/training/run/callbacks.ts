import type * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions} from '../../../quant/knownOptions.ts';

/** What one optimizer step did. */
export interface StepLog {
  /** Steps so far, from 1. */
  step: number;
  /** Steps of the whole run, where known. */
  totalSteps?: number;
  /** Epochs so far, as a fraction where the length is known. */
  epoch: number;
  /** Mean over the labels that count in the accumulation window. */
  loss: number;
  learningRate: number;
  /** Global norm of the gradients, before clipping. */
  gradNorm: number;
  /** Labels that counted. */
  tokens: number;
  /** Loss or gradient was not finite: no weight has changed. */
  isSkipped?: boolean;
  /** Positions run, padding included, per second of this step. */
  tokensPerSecond: number;
  /** Positions of the whole run so far, padding included. */
  tokensSeen: number;
  /** Since training began, or went on. */
  seconds: number;
  /** What the rest should take at the pace so far, where the length is known. */
  secondsLeft?: number;
  /** In tensors when the last batch's backward pass began: weights, optimizer state, what that pass needs. */
  memoryBytes: number;
}

/** What an evaluation found. */
export interface Evaluation {
  /** Mean over the labels that count. */
  loss: number;
  /** `exp(loss)` */
  perplexity: number;
  /** Labels that counted. */
  tokens: number;
  /** How many there were, and how long it took. */
  examples: number;
  batches: number;
  seconds: number;
}

/**
 * A line of the log, with transformers' names: `loss`, `grad_norm`, `learning_rate` in training; `eval_loss` … after an
 * evaluation; `train_loss` … at the end.
 */
export interface LogEntry {
  step: number;
  epoch: number;
  [name: string]: number;
}

/** An epoch's `loss`, and after validation `val_loss`: Keras's names. */
export type EpochLogs = Record<string, number>;

type Handler<Args extends unknown[]> = (...args: Args) => void | Promise<void>;

/**
 * What may be done while training goes on; every method is awaited. Keras's names, with our records as logs. To end
 * training, set the model's `stopTraining`.
 */
export interface TrainingCallback {
  /** Keras callbacks are handed the model. */
  setModel?(model: unknown): void;
  /** Keras callbacks are told `epochs`, `steps`, `batchSize`, `verbose`, `doValidation`. */
  setParams?(params: Record<string, unknown>): void;
  /** `step`: the steps already done, above 0 when a run goes on. */
  onTrainBegin?: Handler<[logs: {totalSteps?: number; step?: number}]>;
  onTrainEnd?: Handler<[]>;
  /** Instead of {@link onTrainEnd}, when training breaks off; the error is thrown afterwards. */
  onTrainError?: Handler<[error: unknown]>;
  onEpochBegin?: Handler<[epoch: number]>;
  onEpochEnd?: Handler<[epoch: number, logs: EpochLogs]>;
  /**
   * While a backend compiles the shaders of a step, which it does before the first: with 0, and after each one. Not called where
   * there is nothing to compile.
   */
  onCompile?: Handler<[compiled: number, total: number]>;
  /** Before each optimizer step, counted from 1. */
  onStepBegin?: Handler<[step: number]>;
  /** After each optimizer step. */
  onStepEnd?: Handler<[log: StepLog]>;
  /** Keras's name for {@link onStepBegin}; the number counts from 0. */
  onBatchBegin?: Handler<[batch: number]>;
  /** Keras's name for {@link onStepEnd}; the number counts from 0. */
  // biome-ignore lint/suspicious/noExplicitAny: Keras callbacks take their own log types
  onBatchEnd?: (batch: number, logs?: any) => void | Promise<void>;
  onEvaluate?: Handler<[evaluation: Evaluation, step: number]>;
  /** After each step once its evaluation, if any, is over: here a checkpoint is written. */
  onStepComplete?: Handler<[step: number]>;
  /** After the last step of a run that was not broken off, before {@link onTrainEnd}: here results are written. */
  onTrainComplete?: Handler<[]>;
  /** After each line of the log. */
  onLog?: Handler<[entry: LogEntry]>;
  /** After a checkpoint is in place. */
  onSave?: Handler<[folder: string, step: number]>;
  /** Under this name {@link getState} is kept in checkpoints. */
  readonly stateName?: string;
  /** What a run that goes on needs to know, as JSON. */
  getState?(): Record<string, unknown>;
  /** Takes over what {@link getState} gave. */
  setState?(state: Record<string, unknown>): void;
}

/** A callback, a Keras callback, or a function to call after each step. */
export type CallbackLike =
  | TrainingCallback
  | tf.Callback
  | tf.CustomCallback
  | ((log: StepLog) => void | Promise<void>);

type EventName = Extract<keyof TrainingCallback, `on${string}`>;

const EVENTS: Readonly<Record<EventName, true>> = {
  onTrainBegin: true,
  onTrainEnd: true,
  onTrainError: true,
  onEpochBegin: true,
  onEpochEnd: true,
  onCompile: true,
  onStepBegin: true,
  onStepEnd: true,
  onBatchBegin: true,
  onBatchEnd: true,
  onEvaluate: true,
  onStepComplete: true,
  onTrainComplete: true,
  onLog: true,
  onSave: true,
};

/**
 * What the user passed, as callbacks.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for something that is no callback, or a method that no event would call
 */
export function userCallbacks(given: CallbackLike | CallbackLike[] = []): TrainingCallback[] {
  return [given].flat().map((callback, i) => {
    if (typeof callback === 'function') return {onStepEnd: callback};
    if (typeof callback === 'object' && callback !== null) {
      const handlers = Object.entries(callback).filter(([name]) => /^on[A-Z_]/.test(name));
      assertKnownOptions(`fitDataset callback ${i}`, Object.fromEntries(handlers), EVENTS);
      return callback as TrainingCallback;
    }
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `fitDataset callback ${i}: expected a callback or a function, got ${callback === null ? 'null' : typeof callback}`,
    );
  });
}

/** Several callbacks as one. */
export class CallbackList {
  constructor(
    private readonly callbacks: TrainingCallback[],
    model: unknown,
    params: Record<string, unknown> = {},
  ) {
    for (const callback of callbacks) {
      callback.setParams?.(params);
      callback.setModel?.(model);
    }
  }

  /** What the callbacks that have a `stateName` keep in a checkpoint. */
  get states(): Record<string, Record<string, unknown>> {
    const states: Record<string, Record<string, unknown>> = {};
    for (const callback of this.callbacks)
      if (callback.stateName && callback.getState) states[callback.stateName] = callback.getState();
    return states;
  }

  set states(states: Record<string, Record<string, unknown>>) {
    for (const callback of this.callbacks) {
      const state = callback.stateName && states[callback.stateName];
      if (state) callback.setState?.(state);
    }
  }

  async emit<Name extends EventName>(
    name: Name,
    ...args: Parameters<NonNullable<TrainingCallback[Name]>>
  ): Promise<void> {
    for (const callback of this.callbacks) {
      await (callback[name] as ((...given: unknown[]) => unknown) | undefined)?.call(callback, ...args);
    }
  }

  /** Training breaks off; what a callback throws now must not hide why. */
  async emitError(error: unknown): Promise<void> {
    for (const callback of this.callbacks) {
      try {
        await callback.onTrainError?.(error);
      } catch {}
    }
  }

  /** One step is over, under our name and Keras's. */
  async emitStepEnd(log: StepLog): Promise<void> {
    await this.emit('onStepEnd', log);
    await this.emit('onBatchEnd', log.step - 1, {...log});
  }
}
