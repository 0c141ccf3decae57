import type * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../quant/errors.ts';

/** What one optimizer step did. */
export interface StepRecord {
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
  /** Positions run, padding included, per second of this step. */
  tokensPerSecond: number;
  /** Since training began. */
  seconds: number;
}

/** What an evaluation found. */
export interface Evaluation {
  /** Mean over the labels that count. */
  loss: number;
  /** `exp(loss)` */
  perplexity: number;
  /** Labels that counted. */
  tokens: number;
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
  onTrainBegin?: Handler<[logs: {totalSteps?: number}]>;
  onTrainEnd?: Handler<[]>;
  /** Instead of {@link onTrainEnd}, when training breaks off; the error is thrown afterwards. */
  onTrainError?: Handler<[error: unknown]>;
  onEpochBegin?: Handler<[epoch: number]>;
  onEpochEnd?: Handler<[epoch: number, logs: EpochLogs]>;
  /** Before each optimizer step, counted from 1. */
  onStepBegin?: Handler<[step: number]>;
  /** After each optimizer step. */
  onStepEnd?: Handler<[record: StepRecord]>;
  /** Keras's name for {@link onStepBegin}; the number counts from 0. */
  onBatchBegin?: Handler<[batch: number]>;
  /** Keras's name for {@link onStepEnd}; the number counts from 0. */
  // biome-ignore lint/suspicious/noExplicitAny: Keras callbacks take their own log types
  onBatchEnd?: (batch: number, logs?: any) => void | Promise<void>;
  onEvaluate?: Handler<[evaluation: Evaluation, step: number]>;
}

/** A callback, a Keras callback, or a function to call after each step. */
export type CallbackLike =
  | TrainingCallback
  | tf.Callback
  | tf.CustomCallback
  | ((record: StepRecord) => void | Promise<void>);

type EventName = Exclude<keyof TrainingCallback, 'setModel' | 'setParams'>;

/** Several callbacks as one. */
export class CallbackList {
  private readonly callbacks: TrainingCallback[];

  /** @throws TfjsLoraError `INVALID_ARGUMENT` for something that is no callback */
  constructor(callbacks: CallbackLike[], model: unknown, params: Record<string, unknown> = {}) {
    this.callbacks = callbacks.map((callback, i) => {
      if (typeof callback === 'function') return {onStepEnd: callback};
      if (typeof callback === 'object' && callback !== null) return callback as TrainingCallback;
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `fitDataset callback ${i}: expected a callback or a function, got ${callback === null ? 'null' : typeof callback}`,
      );
    });
    for (const callback of this.callbacks) {
      callback.setParams?.(params);
      callback.setModel?.(model);
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
  async emitStepEnd(record: StepRecord): Promise<void> {
    await this.emit('onStepEnd', record);
    await this.emit('onBatchEnd', record.step - 1, {...record});
  }
}
