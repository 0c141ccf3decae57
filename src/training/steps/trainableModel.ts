import type * as tf from '@tensorflow/tfjs';
import type {BusyModel} from '../../../models/assertIdle.ts';
import type {Tokenizer} from '../../../models/tokenizer.ts';
import type {FolderTarget} from '../../../quant/folders/openFolder.ts';
import type {LossModel} from '../losses/trainingLoss.ts';

/** The part of a model that the trainer needs; every `CausalLM` has it. */
export interface TrainableModel extends BusyModel, LossModel {
  readonly config: {
    vocabSize: number;
    maxPositionEmbeddings: number;
    padTokenId?: number;
    hiddenSize?: number;
  };
  /** Keras's flag: false freezes the whole model. */
  readonly trainable?: boolean;
  /** Keras's flag: once true, training ends after the current step. */
  stopTraining: boolean;
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
  layersWithAdapters?(): Map<string, {readonly isMerged: boolean}>;

  /** The value head, if the model has one. */
  readonly valueHead?: {readonly trainable: boolean};
  /** Writes a PEFT folder. */
  saveAdapter?(folder: FolderTarget, adapterName?: string): Promise<void>;
  /** Writes a Hugging Face folder, with its matrices as `storage` says. */
  save?(folder: FolderTarget): Promise<unknown>;
  readonly storage?: string;
  readonly tokenizer?: Tokenizer;
  countParams?(): number;
}
