import type {StorageDtype} from '../quant/float16.ts';

/** What every model config has. */
export interface CausalLMConfig {
  vocabSize: number;
  hiddenSize: number;
  numHiddenLayers: number;
  maxPositionEmbeddings: number;
  initializerRange: number;
  bosTokenId?: number;
  eosTokenId?: number | number[];
  padTokenId?: number;
  /** Whether the output head is the embedding table. */
  tieWordEmbeddings?: boolean;
}

/** A family's class: how its models are made, and how its config is read. */
export interface ModelClass<M> {
  new (config: never, storage?: StorageDtype): M;
  /** The `model_type` of the family's `config.json`: `llama`. */
  readonly modelType: string;
  /** What transformers calls the class, for `architectures` in `config.json`: `LlamaForCausalLM`. */
  readonly architecture: string;
  /** Reads the contents of a `config.json`; `where` names the file in errors. */
  parseConfig(json: Record<string, unknown>, where: string): CausalLMConfig;
  /** A whole config from whatever `fromConfig` takes. */
  resolveConfig(source: never): CausalLMConfig;
  /** Weights of a model of this config: the files must be able to hold them. 0: unknown, and not compared. */
  parameterCount(config: never): number;
}
