import type * as tf from '@tensorflow/tfjs';
import type {Batch} from '../models/batchLoss.ts';
import {LlamaForCausalLM} from '../models/llama/llama.ts';
import type {TrainingData} from './data/batches.ts';
import type {Evaluation} from './training/callbacks.ts';
import {type CompileArgs, type FitArgs, type StepResult, Trainer, type WindowGradients} from './training/trainer.ts';
import type {TrainingHistory} from './training/trainingHistory.ts';

type Keras = tf.LayersModel;

/**
 * Llama with training. `compile`, `fitDataset`, `trainOnBatch` and `evaluateDataset` take token ids instead of Keras's
 * `x` and `y`; Keras's own signatures stay in the types only so that a Llama passes as a `tf.LayersModel`.
 */
export class Llama extends LlamaForCausalLM {
  static override className = 'Llama';
  readonly trainer = new Trainer(this);

  /** Sets optimizer, learning rate schedule and clipping. The loss is the model's own. */
  override compile(args: CompileArgs | Parameters<Keras['compile']>[0] = {}): void {
    this.assertUsable();
    this.trainer.compile(args as CompileArgs);
    this.optimizer_ = this.trainer.optimizer;
  }

  /** Trains on examples or batches, showing progress; see {@link FitArgs}. */
  override fitDataset(data: TrainingData, args?: FitArgs): Promise<TrainingHistory>;
  override fitDataset(...args: Parameters<Keras['fitDataset']>): ReturnType<Keras['fitDataset']>;
  override async fitDataset(data: unknown, args?: unknown): Promise<TrainingHistory> {
    this.assertUsable();
    return this.trainer.fit(data as TrainingData, args as FitArgs);
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
  override evaluateDataset(data: TrainingData, args?: {batchSize?: number}): Promise<Evaluation>;
  override evaluateDataset(...args: Parameters<Keras['evaluateDataset']>): ReturnType<Keras['evaluateDataset']>;
  // biome-ignore lint/suspicious/noExplicitAny: the overloads above give the types
  override async evaluateDataset(data: unknown, args?: unknown): Promise<any> {
    this.assertUsable();
    return this.trainer.evaluate(data as TrainingData, args as {batchSize?: number});
  }

  /** Loss and gradients of the trained weights, keyed as in a PEFT file; dispose the gradients after use. */
  async computeGradients(batch: Batch | Batch[]): Promise<WindowGradients> {
    this.assertUsable();
    return this.trainer.computeGradients(batch);
  }
}
