import type {GroupedQueryAttention} from '../../layers/groupedQueryAttention.ts';
import type {RopeScaling} from '../../layers/ropeFrequencies.ts';
import type {SavableModel} from '../savePretrained.ts';

/** What the writers of GGUF files must know of a model's shape. */
export interface GgufConfig {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly maxPositionEmbeddings: number;
  readonly rmsNormEps: number;
  readonly ropeTheta: number;
  readonly ropeScaling?: RopeScaling;
  /** Base of the rotary frequencies in layers with a window. Default `ropeTheta`. */
  readonly ropeLocalBaseFreq?: number;
  readonly tieWordEmbeddings: boolean;
}

/** The part of a model that the writers of GGUF files need: a decoder of Llama's kind. */
export interface GgufModel extends SavableModel {
  readonly modelType: string;
  readonly nameOrPath: string;
  readonly config: GgufConfig;
  /** Bound of the logits; undefined if they have none. */
  readonly logitBound: number | undefined;
  readonly blocks: readonly {
    readonly self_attn: Pick<
      GroupedQueryAttention,
      'window' | 'isRotary' | 'scale' | 'softCap' | 'rotaryDim' | 'ropeTheta'
    >;
  }[];
}
