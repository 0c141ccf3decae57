import type * as tf from '@tensorflow/tfjs';
import type {BusyModel} from '../../../models/assertIdle.ts';
import type {Batch} from '../../../models/batchLoss.ts';
import type {LossPass} from '../../../models/lossPass.ts';
import type {Tokenizer} from '../../../models/tokenizer.ts';

/** The part of a model that the trainer needs; every `CausalLM` has it. */
export interface TrainableModel extends BusyModel {
  readonly config: {
    vocabSize: number;
    maxPositionEmbeddings: number;
    padTokenId?: number;
    hiddenSize?: number;
  };
  /** Keras's flag: once true, training ends after the current step. */
  stopTraining: boolean;
  /** Sums the loss over the labels that count. The sum is differentiable, and no other tensor is left behind. */
  lossSum(batch: Batch, options?: {training?: boolean; seed?: number}): tf.Scalar;
  /** Returns the pass of {@link lossSum} in training for recording; undefined if it cannot be recorded. */
  lossPass?(batch: Batch): LossPass | undefined;
  /** Returns the number of labels that count in a batch. */
  targetCount(batch: Batch): number;
  /** Returns the trained weights by their key in a PEFT file. */
  trainableParameters(): Map<string, tf.Variable>;
  /** Returns the shapes of the trained weights, even if they are not allocated. */
  trainableShapes?(): Map<string, number[]>;
  /** Returns all weights by their name in model files. */
  namedParameters?(): Map<
    string,
    {readonly logicalShape: number[]; readonly storage: string; readonly trainable: boolean}
  >;
  /** Returns the layers with adapters, by name; a merged layer passes no gradient to its adapter. */
  adaptedLayers?(): Map<string, {readonly isMerged: boolean}>;

  /** Names of all adapters, and of the active ones. */
  readonly adapterNames?: string[];
  readonly activeAdapters?: string[];
  /** Writes a PEFT folder. */
  saveAdapter?(folder: string, adapterName?: string): Promise<void>;
  /** Writes a Hugging Face folder, with its matrices as `storage` says. */
  save?(folder: string): Promise<unknown>;
  readonly storage?: string;
  readonly tokenizer?: Tokenizer;
  countParams?(): number;
}
