import type * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../../models/batchLoss.ts';
import type {LossPass} from '../../../models/lossPass.ts';
import type {LossModel} from './lossModel.ts';
import type {Rollouts} from './rollouts.ts';

export type {LossModel};

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
  /** Given for losses that learn from the model's own answers. The data are then prompts. */
  readonly rollouts?: Rollouts;
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
