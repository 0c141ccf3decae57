import type {StorageDtype} from '../quant/float16.ts';

/** Settings that every model config has. */
export interface CausalLMConfig {
  vocabSize: number;
  hiddenSize: number;
  numHiddenLayers: number;
  maxPositionEmbeddings: number;
  initializerRange: number;
  bosTokenId?: number;
  eosTokenId?: number | number[];
  padTokenId?: number;
  /** Dropout before a value head. Default 0.1. */
  summaryDropoutProb?: number;
  /** Whether the output head is the embedding table. */
  tieWordEmbeddings?: boolean;
}

/** The class of a model family, which makes its models and reads its configs. */
export interface ModelClass<M> {
  new (config: never, storage?: StorageDtype): M;
  /** The `model_type` in the family's `config.json`: `llama`. */
  readonly modelType: string;
  /** Name of the class in transformers, for `architectures` in `config.json`: `LlamaForCausalLM`. */
  readonly architecture: string;
  /** Reads the contents of a `config.json`. `where` names the file in errors. */
  parseConfig(json: Record<string, unknown>, where: string): CausalLMConfig;
  /** Makes a complete config from the argument of `fromConfig`. */
  resolveConfig(source: never): CausalLMConfig;
  /** Returns the number of weights in a model of this config, which its files must hold; 0 is not checked. */
  parameterCount(config: never): number;
}
