import type * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../models/batchLoss.ts';
import {LlamaForCausalLM} from '../../models/llama/llama.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import type {TrainingData} from '../data/batches/batches.ts';
import type {Evaluation} from './run/callbacks.ts';
import type {FitArgs} from './run/fitArgs.ts';
import type {TrainingHistory} from './run/trainingHistory.ts';
import type {CompileArgs, StepResult} from './steps/trainingStep.ts';
import type {WindowGradients} from './steps/windowGradients.ts';
import {type EvaluateArgs, Trainer} from './trainer.ts';

type Keras = tf.LayersModel;

/**
 * Llama with training. `compile`, `fitDataset`, `trainOnBatch` and `evaluateDataset` take token ids instead of Keras's
 * `x` and `y`; Keras's own signatures stay in the types only so that a Llama passes as a `tf.LayersModel`.
 */
export class Llama extends LlamaForCausalLM {
  static override className = 'Llama';
  readonly trainer = new Trainer(this);

  /**
   * Sets optimizer, learning rate schedule and clipping. The loss is the model's own: cross-entropy over the labels.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` for a `loss`, `metrics` or another unknown option, and what the trainer throws
   */
  override compile(args: CompileArgs | Parameters<Keras['compile']>[0] = {}): void {
    this.assertUsable();
    this.trainer.compile(args as CompileArgs);
  }

  override get optimizer(): tf.Optimizer {
    return this.trainer.optimizer;
  }

  override set optimizer(optimizer: tf.Optimizer) {
    this.trainer.optimizer = optimizer;
  }

  /** Trains on examples or batches, showing progress; see {@link FitArgs}. */
  override fitDataset(data: TrainingData, args?: FitArgs): Promise<TrainingHistory>;
  override fitDataset(...args: Parameters<Keras['fitDataset']>): ReturnType<Keras['fitDataset']>;
  override async fitDataset(data: unknown, args?: unknown): Promise<TrainingHistory> {
    this.assertUsable();
    try {
      return await this.trainer.fit(data as TrainingData, args as FitArgs);
    } finally {
      if (this.trainer.history) this.history = this.trainer.history;
    }
  }

  /** One optimizer step on a batch; several batches are one accumulation window. */
  override trainOnBatch(batch: Batch | Batch[]): Promise<StepResult>;
  override trainOnBatch(...args: Parameters<Keras['trainOnBatch']>): ReturnType<Keras['trainOnBatch']>;
  // biome-ignore lint/suspicious/noExplicitAny: the overloads above give the types
  override async trainOnBatch(batch: unknown): Promise<any> {
    this.assertUsable();
    return this.trainer.trainOnBatch(batch as Batch);
  }

  /** `{loss, perplexity, tokens}` over a dataset. */
  override evaluateDataset(data: TrainingData, args?: EvaluateArgs): Promise<Evaluation>;
  override evaluateDataset(
    ...args: Parameters<Keras['evaluateDataset']>
  ): ReturnType<Keras['evaluateDataset']>;
  // biome-ignore lint/suspicious/noExplicitAny: the overloads above give the types
  override async evaluateDataset(data: unknown, args?: unknown): Promise<any> {
    this.assertUsable();
    return this.trainer.evaluate(data as TrainingData, args as EvaluateArgs);
  }

  /**
   * Loss and gradients of the trained weights, keyed as in a PEFT file; dispose the gradients after use.
   *
   * @param options `seed` of dropout, which is on as in a training step; default 0
   */
  async computeGradients(batch: Batch | Batch[], options?: {seed?: number}): Promise<WindowGradients> {
    this.assertUsable();
    return this.trainer.computeGradients(batch, options);
  }

  /** Keras's training on tensors `x` and `y` does not fit token ids. */
  override async fit(): Promise<never> {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      'fit: expected a call of fitDataset, which takes token ids and labels',
    );
  }

  /** As {@link fit}. */
  override evaluate(): never {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      'evaluate: expected a call of evaluateDataset, which takes token ids and labels',
    );
  }

  /** Frees every weight, and the state of an optimizer made here; one that was passed in stays its maker's. */
  override dispose(): ReturnType<Keras['dispose']> {
    const result = super.dispose();
    this.trainer.dispose();
    return result;
  }
}
