import type * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions} from '../../../quant/knownOptions.ts';
import type {ScoredAnswers} from '../losses/rollouts.ts';
import type {PredictionProgress} from '../prediction/predictDataset.ts';

/** Record of one optimizer step. */
export interface StepLog {
  /** Number of steps so far, from 1. */
  step: number;
  /** Number of steps in the whole run, if known. */
  totalSteps?: number;
  /** Number of epochs so far; a fraction if the length is known. */
  epoch: number;
  /** Mean loss over the labels that count in the accumulation window, or over its pairs. */
  loss: number;
  /** Numbers that describe the step, if the loss has any. */
  metrics?: Record<string, number>;
  learningRate: number;
  /** Global norm of the gradients, before clipping. */
  gradNorm: number;
  /** Number of labels that counted. */
  tokens: number;
  /** True when loss or gradient was not finite, and no weight has changed. */
  isSkipped?: boolean;
  /** Processed positions, padding included, per second of this step. */
  tokensPerSecond: number;
  /** Processed positions of the whole run so far, padding included. */
  tokensSeen: number;
  /** Seconds since training started or resumed. */
  seconds: number;
  /** Estimate for the rest, in seconds at the pace so far, if the length is known. */
  secondsLeft?: number;
  /** Bytes in tensors when the last batch's backward pass began: weights, optimizer state, and what that pass needs. */
  memoryBytes: number;
}

/** Result of an evaluation. */
export interface Evaluation {
  /** Mean loss over the labels that count, or over pairs. */
  loss: number;
  /** Perplexity: `exp(loss)`; NaN for losses other than cross-entropy. */
  perplexity: number;
  /**
   * Numbers that describe the data, if the loss has any: means over the batches; and the scores of the answers, if the
   * run asks for them.
   */
  metrics?: Record<string, number>;
  /** Number of labels that counted, or of pairs. */
  tokens: number;
  /** Number of examples evaluated, and the seconds it took. */
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

/** An epoch's `loss` and, after validation, `val_loss`, under Keras's names. */
export type EpochLogs = Record<string, number>;

type Handler<Args extends unknown[]> = (...args: Args) => void | Promise<void>;

/**
 * Methods that are called during training; each is awaited. They have Keras's names, but get this library's logs. To
 * end training, set the model's `stopTraining`.
 */
export interface TrainingCallback {
  /** Passes the model to Keras callbacks. */
  setModel?(model: unknown): void;
  /** Passes `epochs`, `steps`, `batchSize`, `verbose` and `doValidation` to Keras callbacks. */
  setParams?(params: Record<string, unknown>): void;
  /** Called when training begins. `step` is the number of steps already done, above 0 when a run resumes. */
  onTrainBegin?: Handler<[logs: {totalSteps?: number; step?: number}]>;
  onTrainEnd?: Handler<[]>;
  /** Called instead of {@link onTrainEnd} when training fails; the error is thrown afterwards. */
  onTrainError?: Handler<[error: unknown]>;
  onEpochBegin?: Handler<[epoch: number]>;
  onEpochEnd?: Handler<[epoch: number, logs: EpochLogs]>;
  /**
   * Called as a backend compiles the shaders of a step, before the first step: with 0, and after each shader. Not
   * called when there is nothing to compile.
   */
  onCompile?: Handler<[compiled: number, total: number]>;
  /** Called before each optimizer step, counted from 1. */
  onStepBegin?: Handler<[step: number]>;
  /** Called with the answers that a step learns from, for losses that have the model answer prompts. */
  onAnswers?: Handler<[answers: ScoredAnswers[], step: number]>;
  /** Called after each optimizer step. */
  onStepEnd?: Handler<[log: StepLog]>;
  /** Keras's name for {@link onStepBegin}; the number counts from 0. */
  onBatchBegin?: Handler<[batch: number]>;
  /** Keras's name for {@link onStepEnd}; the number counts from 0. */
  onBatchEnd?(batch: number, logs?: StepLog | tf.Logs): void | Promise<void>;
  /**
   * Called while prompts are answered: in an evaluation, before the first batch and after each batch; in a step, every
   * second.
   */
  onPredict?: Handler<[progress: PredictionProgress, step: number]>;
  onEvaluate?: Handler<[evaluation: Evaluation, step: number]>;
  /** Called after each step, once its evaluation, if any, is over: checkpoints are written here. */
  onStepComplete?: Handler<[step: number]>;
  /** Called after the last step of a run that did not fail, before {@link onTrainEnd}: results are written here. */
  onTrainComplete?: Handler<[]>;
  /** Called after each line of the log. */
  onLog?: Handler<[entry: LogEntry]>;
  /** Called after a checkpoint is in place. */
  onSave?: Handler<[folder: string, step: number]>;
  /** Name under which checkpoints store {@link getState}. */
  readonly stateName?: string;
  /** Returns the state that a resumed run needs, as JSON. */
  getState?(): Record<string, unknown>;
  /** Restores what {@link getState} returned. */
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
  onAnswers: true,
  onStepEnd: true,
  onBatchBegin: true,
  onBatchEnd: true,
  onPredict: true,
  onEvaluate: true,
  onStepComplete: true,
  onTrainComplete: true,
  onLog: true,
  onSave: true,
};

/**
 * Converts what the user passed to callbacks.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for something that is not a callback, or a method that no event would call
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

/** Combines several callbacks. */
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

  /** State for a checkpoint of the callbacks that have a `stateName`. */
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

  /** Reports that training failed; an error in a callback must not hide the cause. */
  async emitError(error: unknown): Promise<void> {
    for (const callback of this.callbacks) {
      try {
        await callback.onTrainError?.(error);
      } catch {}
    }
  }

  /** Reports the end of a step, under our name and Keras's. */
  async emitStepEnd(log: StepLog): Promise<void> {
    await this.emit('onStepEnd', log);
    await this.emit('onBatchEnd', log.step - 1, {...log});
  }
}
