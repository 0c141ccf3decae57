import type * as tf from '@tensorflow/tfjs';

/** What one optimizer step did. */
export interface StepRecord {
  /** Steps so far, from 1. */
  step: number;
  /** Steps of the whole run, where known. */
  totalSteps?: number;
  /** Epochs so far, as a fraction. */
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

type Handler<Args extends unknown[]> = (...args: Args) => void | Promise<void>;

/** What may be done while training goes on; every method is awaited. Keras's names, with our records as logs. */
export interface TrainingCallback {
  /** Keras callbacks are handed the model. */
  setModel?(model: unknown): void;
  setParams?(params: Record<string, unknown>): void;
  onTrainBegin?: Handler<[logs: {totalSteps?: number}]>;
  onTrainEnd?: Handler<[]>;
  onEpochBegin?: Handler<[epoch: number]>;
  onEpochEnd?: Handler<[epoch: number, logs: Record<string, number>]>;
  /** After each optimizer step. */
  onStepEnd?: Handler<[record: StepRecord]>;
  /** Keras's name for {@link onStepEnd}; the number counts from 0. */
  // biome-ignore lint/suspicious/noExplicitAny: Keras callbacks take their own log types
  onBatchEnd?: (batch: number, logs?: any) => void | Promise<void>;
  onEvaluate?: Handler<[evaluation: Evaluation, step: number]>;
}

/** A callback, a Keras callback, or a function to call after each step. */
export type CallbackLike = TrainingCallback | tf.Callback | ((record: StepRecord) => void | Promise<void>);

/** Several callbacks as one. */
export class CallbackList {
  private readonly callbacks: TrainingCallback[];

  constructor(callbacks: CallbackLike[], model: unknown) {
    this.callbacks = callbacks.map((callback) =>
      typeof callback === 'function' ? {onStepEnd: callback} : (callback as TrainingCallback),
    );
    for (const callback of this.callbacks) callback.setModel?.(model);
  }

  async emit<Name extends Exclude<keyof TrainingCallback, 'setModel' | 'setParams'>>(
    name: Name,
    ...args: Parameters<NonNullable<TrainingCallback[Name]>>
  ): Promise<void> {
    for (const callback of this.callbacks) {
      await (callback[name] as ((...given: unknown[]) => unknown) | undefined)?.call(callback, ...args);
    }
  }
}
