import type * as tf from '@tensorflow/tfjs';
import type {BusyModel} from '../../../models/assertIdle.ts';
import type {Batch} from '../../../models/batchLoss.ts';

/** What the trainer needs of a model; every `CausalLM` is one. */
export interface TrainableModel extends BusyModel {
  readonly config: {
    vocabSize: number;
    maxPositionEmbeddings: number;
    padTokenId?: number;
    hiddenSize?: number;
  };
  /** Keras's flag: once true, training ends after the step at hand. */
  stopTraining: boolean;
  /** Sum of the loss over the labels that count; differentiable, and the only tensor left behind. */
  lossSum(batch: Batch, options?: {training?: boolean; seed?: number}): tf.Scalar;
  /** How many labels of a batch count. */
  targetCount(batch: Batch): number;
  /** The trained weights by their key in a PEFT file. */
  trainableParameters(): Map<string, tf.Variable>;
  /** Their shapes, which a model without memory knows too. */
  trainableShapes?(): Map<string, number[]>;
  /** All weights by their name in a checkpoint. */
  namedParameters?(): Map<
    string,
    {readonly logicalShape: number[]; readonly storage: string; readonly trainable: boolean}
  >;
  /** Layers that carry adapters, by name; one that is merged passes no gradient to its adapter. */
  adaptedLayers?(): Map<string, {readonly isMerged: boolean}>;

  /** Names of all adapters, and of those in force. */
  readonly adapterNames?: string[];
  readonly activeAdapters?: string[];
  /** Writes a PEFT folder. */
  saveAdapter?(folder: string, adapterName?: string): Promise<void>;
  /** Writes a Hugging Face folder, its matrices as `storage` says. */
  save?(folder: string): Promise<unknown>;
  readonly storage?: string;
  readonly tokenizer?: {save(folder: string): Promise<unknown>};
  countParams?(): number;
}
