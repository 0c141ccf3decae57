import type * as tf from '@tensorflow/tfjs';
import type {Batch, HeadOwner, TokenLosses, TokenLossesOptions} from '../../../models/batchLoss.ts';
import type {LossPass} from '../../../models/lossPass.ts';
import type {ValueBatch, ValueOptions} from '../../../models/values.ts';

/** The part of a model that losses need. */
export interface LossModel extends Partial<HeadOwner> {
  /** Sums the loss over the labels that count. The sum is differentiable, and no other tensor is left behind. */
  lossSum(batch: Batch, options?: {training?: boolean; seed?: number}): tf.Scalar;
  /**
   * Returns the pass of {@link lossSum} in training for recording; undefined if it cannot be recorded.
   *
   * @param trained number of weights that train
   */
  lossPass?(batch: Batch, trained: number): LossPass | undefined;
  /** Returns the number of labels that count in a batch. */
  targetCount(batch: Batch): number;
  /** Computes the loss of each label that counts; differentiable. */
  tokenLosses?(batch: Batch, options?: TokenLossesOptions): TokenLosses;
  /** Runs the value head. */
  values?(batch: ValueBatch, options?: ValueOptions): tf.Tensor;
  /** The value head, if the model has one. */
  readonly valueHead?: {readonly trainable: boolean};
  /** Computes the hidden states `[N, C]` that predict the labels that count, for losses with a reference. */
  labelStates?(batch: Batch): tf.Tensor2D;
  /** Calls a function while only the named adapters are active. */
  withAdapters?<R>(names: readonly string[], fn: () => R): R;
  /** Names of all adapters, and of the active ones, which train. */
  readonly adapterNames?: string[];
  readonly activeAdapters?: string[];
  /** What changed the base with an adapter, if anything: a method of `initializeLoRA`. */
  readonly baseChangedBy?: string;
  /** Returns an adapter's options; `bias` says whether the base changes with it. */
  adapterOptions?(name: string): {bias?: string};
}
