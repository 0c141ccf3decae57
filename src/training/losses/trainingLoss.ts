import type * as tf from '@tensorflow/tfjs';
import type {Batch, TokenLosses} from '../../../models/batchLoss.ts';
import type {LossPass} from '../../../models/lossPass.ts';

/** The part of a model that losses need. */
export interface LossModel {
  /** Sums the loss over the labels that count. The sum is differentiable, and no other tensor is left behind. */
  lossSum(batch: Batch, options?: {training?: boolean; seed?: number}): tf.Scalar;
  /** Returns the pass of {@link lossSum} in training for recording; undefined if it cannot be recorded. */
  lossPass?(batch: Batch): LossPass | undefined;
  /** Returns the number of labels that count in a batch. */
  targetCount(batch: Batch): number;
  /** Computes the loss of each label that counts; differentiable. */
  tokenLosses?(batch: Batch, options?: {training?: boolean; seed?: number}): TokenLosses;
  /** Calls a function while only the named adapters are active. */
  withAdapters?<R>(names: readonly string[], fn: () => R): R;
  /** Names of all adapters, and of the active ones, which train. */
  readonly adapterNames?: string[];
  readonly activeAdapters?: string[];
}

/** The loss of a batch, differentiable, and numbers that describe the batch. */
export interface BatchLoss {
  /** Sum over the batch's units: labels that count, or pairs. */
  loss: tf.Scalar;
  /** `[K]`, one for each of {@link TrainingLoss.metrics}; their gradients are not needed. */
  metrics?: tf.Tensor1D;
}

/** What training minimizes: `compile({loss})`. */
export interface TrainingLoss {
  /** Name, for messages. */
  readonly name: string;
  /** Names of the numbers that describe a batch, under which they are logged. */
  readonly metrics: readonly string[];
  /** Other models in memory that the loss computes with, such as a reference. */
  readonly otherModels?: readonly object[];
  /** Rows of a batch that belong to one example: 2 for pairs. */
  readonly rowsPerExample: number;
  /**
   * Whether the batches of an accumulation window count the same, as in TRL. Otherwise all units of a window do, as in
   * transformers' language models.
   */
  readonly averagesBatches: boolean;
  /** Throws if the model cannot be trained with this loss. */
  assertFits(model: LossModel): void;
  /** Returns the number of units in a batch. */
  count(model: LossModel, batch: Batch): number;
  /** Computes what the loss needs of a batch and does not differentiate, before {@link compute}. */
  constants?(model: LossModel, batch: Batch): tf.Tensor | undefined;
  /** Returns the pass of {@link compute} in training for recording; undefined if it cannot be recorded. */
  pass?(model: LossModel, batch: Batch): LossPass | undefined;
  compute(
    model: LossModel,
    batch: Batch,
    pass: {training?: boolean; seed?: number},
    constants?: tf.Tensor,
  ): BatchLoss;
}

/** The model's own loss: cross-entropy over the labels that count. */
export const CROSS_ENTROPY: TrainingLoss = {
  name: 'cross-entropy',
  metrics: [],
  rowsPerExample: 1,
  averagesBatches: false,
  assertFits() {},
  count: (model, batch) => model.targetCount(batch),
  pass: (model, batch) => model.lossPass?.(batch),
  compute: (model, batch, pass) => ({loss: model.lossSum(batch, pass)}),
};
