import type * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../../models/batchLoss.ts';
import type {LossPass} from '../../../models/lossPass.ts';
import type {ExampleKind} from '../../data/batches/collate.ts';
import type {LossModel} from './lossModel.ts';
import type {Rollouts} from './rollouts.ts';

export type {LossModel};

/** The loss of a batch, differentiable, and numbers that describe the batch. */
export interface BatchLoss {
  /** Sum over the batch's units: labels that count, or pairs. */
  loss: tf.Scalar;
  /** `[K]`, one for each of {@link TrainingLoss.measures}; their gradients are not needed. */
  metrics?: tf.Tensor1D;
}

/** A loss that training minimizes, for `compile({loss})`. */
export interface TrainingLoss {
  /** Name, for messages. */
  readonly name: string;
  /** Names of the numbers that describe batches, under which they are logged. */
  readonly metrics: readonly string[];
  /** Names of what is measured in a batch and added up over batches. Default: the {@link metrics}. */
  readonly measures?: readonly string[];
  /** Computes the metrics from sums over a number of batches. Default: means over the batches. */
  summarize?(sums: Record<string, number>, batches: number): Record<string, number>;
  /** Other models in memory that the loss computes with, such as a reference. */
  readonly otherModels?: readonly object[];
  /** The kind of examples that the loss is computed from. */
  readonly exampleKind: ExampleKind;
  /**
   * Whether all batches of an accumulation window have the same weight, as in TRL. Otherwise all units of the window
   * do, as in transformers' language models.
   */
  readonly averagesBatches: boolean;
  /** Set for losses that learn from the model's own answers. The data are then prompts. */
  readonly rollouts?: Rollouts;
  /** Throws if the model cannot be trained with this loss. */
  assertFits(model: LossModel): void;
  /** Returns the number of units in a batch. */
  count(model: LossModel, batch: Batch): number;
  /** Computes the part of a batch's loss that is not differentiated, before {@link compute}. */
  constants?(model: LossModel, batch: Batch): tf.Tensor | undefined;
  /**
   * Returns the pass of {@link compute} in training for recording; undefined if it cannot be recorded.
   *
   * @param trained number of weights that train
   */
  pass?(model: LossModel, batch: Batch, trained: number): LossPass | undefined;
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
  exampleKind: 'answer',
  averagesBatches: false,
  assertFits() {},
  count: (model, batch) => model.targetCount(batch),
  pass: (model, batch, trained) => model.lossPass?.(batch, trained),
  compute: (model, batch, pass) => ({loss: model.lossSum(batch, pass)}),
};

/** What was measured in batches. */
export interface Measured {
  /** Sums over the batches, by the names of {@link TrainingLoss.measures}. */
  sums: Record<string, number>;
  batches: number;
}

/** Adds up what was measured. */
export function addMeasured(before: Measured | undefined, added: Measured | undefined): Measured | undefined {
  if (!before || !added) return before ?? added;
  const sums = Object.entries(added.sums).map(([name, sum]) => [name, (before.sums[name] ?? 0) + sum]);
  return {sums: Object.fromEntries(sums), batches: before.batches + added.batches};
}

/** Returns the numbers that describe batches, if the loss has any. */
export function metricsOf(
  loss: TrainingLoss,
  measured: Measured | undefined,
): Record<string, number> | undefined {
  if (!measured) return undefined;
  const {sums, batches} = measured;
  if (loss.summarize) return loss.summarize(sums, batches);
  return Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, sum / batches]));
}
