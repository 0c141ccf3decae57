import type {RopeScaling} from '../../layers/rotaryEmbedding.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import {show} from '../../quant/show.ts';

/** The shape of a Llama, as `config.json` describes it. */
export interface LlamaConfig {
  vocabSize: number;
  hiddenSize: number;
  intermediateSize: number;
  numHiddenLayers: number;
  numAttentionHeads: number;
  /** Number of key and value heads. Default `numAttentionHeads`: no grouping. */
  numKeyValueHeads: number;
  /** Size of a head. Default `hiddenSize / numAttentionHeads`. */
  headDim: number;
  maxPositionEmbeddings: number;
  rmsNormEps: number;
  ropeTheta: number;
  ropeScaling?: RopeScaling;
  /** Whether the output head is the embedding table. */
  tieWordEmbeddings: boolean;
  attentionBias: boolean;
  mlpBias: boolean;
  /** Probability of dropping an attention weight in training. */
  attentionDropout: number;
  /** Standard deviation of random initial weights. */
  initializerRange: number;
  bosTokenId?: number;
  eosTokenId?: number | number[];
  padTokenId?: number;
  /** Probability of dropping an input of a value head in training. Default 0.1. */
  summaryDropoutProb?: number;
  /** Contents of the `config.json` that was read, so that saving can preserve them. */
  source?: Json;
}

const CONFIG_KEYS = {
  vocabSize: true,
  hiddenSize: true,
  intermediateSize: true,
  numHiddenLayers: true,
  numAttentionHeads: true,
  numKeyValueHeads: true,
  headDim: true,
  maxPositionEmbeddings: true,
  rmsNormEps: true,
  ropeTheta: true,
  ropeScaling: true,
  tieWordEmbeddings: true,
  attentionBias: true,
  mlpBias: true,
  attentionDropout: true,
  initializerRange: true,
  bosTokenId: true,
  eosTokenId: true,
  padTokenId: true,
  summaryDropoutProb: true,
  source: true,
} satisfies OptionNames<LlamaConfig>;

export type Json = Record<string, unknown>;

/** Settings that a new config may omit. */
type Required = 'vocabSize' | 'hiddenSize' | 'intermediateSize' | 'numHiddenLayers' | 'numAttentionHeads';
export type LlamaConfigArgs = Pick<LlamaConfig, Required> & Partial<LlamaConfig>;

/**
 * Checks a config and fills in defaults.
 *
 * @param hasOwnKeys whether the model's class has keys of its own, which stay as they are. Default false
 */
export function withDefaults(args: LlamaConfigArgs, hasOwnKeys = false): LlamaConfig {
  if (!hasOwnKeys) assertKnownOptions('Llama config', args, CONFIG_KEYS);
  const config: LlamaConfig = {
    numKeyValueHeads: args.numAttentionHeads,
    headDim: args.hiddenSize / args.numAttentionHeads,
    maxPositionEmbeddings: 2048,
    rmsNormEps: 1e-6,
    ropeTheta: 10000,
    tieWordEmbeddings: false,
    attentionBias: false,
    mlpBias: false,
    attentionDropout: 0,
    initializerRange: 0.02,
    ...args,
  };
  return validated(config, 'Llama config');
}

/** Names that identify a family whose configs have Llama's format. */
export interface LlamaFamily {
  readonly modelType: string;
  readonly architecture: string;
  /** The activation of the feed-forward, by the name that `hidden_act` has for it. */
  readonly hiddenAct: string;
}
/** The family of Meta's models. */
export const LLAMA: LlamaFamily = {
  modelType: 'llama',
  architecture: 'LlamaForCausalLM',
  hiddenAct: 'silu',
};

/**
 * Reads a Hugging Face `config.json`. The rotary settings are `rope_theta` and `rope_scaling` in transformers 4,
 * `rope_parameters` in transformers 5.
 *
 * @param where the file, for messages
 * @param family family that the file must name, if it names one
 * @throws TfjsLoraError `INVALID_CONFIG` naming the key, `UNSUPPORTED` for another family
 */
export function parseConfig(
  json: Json,
  where = 'config.json',
  {modelType, hiddenAct}: LlamaFamily = LLAMA,
): LlamaConfig {
  const type = json.model_type;
  if (type !== undefined && type !== modelType) {
    throw new TfjsLoraError('UNSUPPORTED', `${where} model_type: expected "${modelType}", got ${show(type)}`);
  }
  if (json.hidden_act !== undefined && json.hidden_act !== hiddenAct) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where} hidden_act: expected "${hiddenAct}", got ${show(json.hidden_act)}`,
    );
  }
  const read = <T>(key: string, fallback?: T): T => {
    const value = json[key] ?? fallback;
    if (value === undefined) {
      throw new TfjsLoraError(
        'INVALID_CONFIG',
        `${where} ${key}: expected a value, got none. Is this a Llama folder?`,
      );
    }
    return value as T;
  };
  const ropeOf = (key: string): Json => {
    const value = json[key] ?? {};
    if (typeof value === 'object' && !Array.isArray(value)) return value as Json;
    throw new TfjsLoraError('INVALID_CONFIG', `${where} ${key}: expected an object, got ${show(value)}`);
  };
  const rope = {...ropeOf('rope_scaling'), ...ropeOf('rope_parameters')};
  const [hidden, heads] = [read<number>('hidden_size'), read<number>('num_attention_heads')];
  return validated(
    {
      vocabSize: read('vocab_size'),
      hiddenSize: hidden,
      intermediateSize: read('intermediate_size'),
      numHiddenLayers: read('num_hidden_layers'),
      numAttentionHeads: heads,
      numKeyValueHeads: read('num_key_value_heads', heads),
      headDim: read('head_dim', isNumber(hidden) && isNumber(heads) ? hidden / heads : Number.NaN),
      maxPositionEmbeddings: read('max_position_embeddings', 2048),
      rmsNormEps: read('rms_norm_eps', 1e-6),
      ropeTheta: (rope.rope_theta as number) ?? read('rope_theta', 10000),
      ropeScaling: parseRopeScaling(rope, where),
      tieWordEmbeddings: read('tie_word_embeddings', false),
      attentionBias: read('attention_bias', false),
      mlpBias: read('mlp_bias', false),
      attentionDropout: read('attention_dropout', 0),
      initializerRange: read('initializer_range', 0.02),
      bosTokenId: (json.bos_token_id as number) ?? undefined,
      eosTokenId: (json.eos_token_id as number | number[]) ?? undefined,
      padTokenId: (json.pad_token_id as number) ?? undefined,
      // null switches it off, as in TRL
      summaryDropoutProb: json.summary_dropout_prob === null ? 0 : (json.summary_dropout_prob as number),
      source: json,
    },
    where,
    (key) => key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
  );
}

const isNumber = (value: unknown): boolean => typeof value === 'number';

function parseRopeScaling(rope: Json, where: string): RopeScaling | undefined {
  const type = rope.rope_type ?? rope.type ?? 'default';
  if (type === 'default') return undefined;
  const number = (key: string): number => {
    const value = rope[key];
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value;
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} rope ${key}: expected a number above 0, got ${show(rope[key])}`,
    );
  };
  if (type === 'linear') return {type, factor: number('factor')};
  if (type !== 'llama3') {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where} rope_type: expected default, linear or llama3, got ${show(type)}`,
    );
  }
  return {
    type,
    factor: number('factor'),
    lowFreqFactor: number('low_freq_factor'),
    highFreqFactor: number('high_freq_factor'),
    originalMaxPositionEmbeddings: number('original_max_position_embeddings'),
  };
}

/** Returns the number of weights in a model of this shape. */
export function parameterCount(config: LlamaConfig): number {
  const {hiddenSize, headDim, numAttentionHeads: heads, numKeyValueHeads, tieWordEmbeddings} = config;
  const embedding = config.vocabSize * hiddenSize;
  const attention = 2 * hiddenSize * headDim * (heads + numKeyValueHeads);
  const block = attention + 3 * hiddenSize * config.intermediateSize + 2 * hiddenSize;
  return embedding * (tieWordEmbeddings ? 1 : 2) + config.numHiddenLayers * block + hiddenSize;
}

/** Returns the contents of a `config.json`, with rotary settings and dtype spelled as in its source. */
export function formatConfig(config: LlamaConfig, dtype: string, family: LlamaFamily = LLAMA): Json {
  const {source} = config;
  if (source) {
    const {torch_dtype, dtype: _, ...rest} = source;
    const isTied = config.tieWordEmbeddings;
    if (isTied !== (source.tie_word_embeddings ?? false)) rest.tie_word_embeddings = isTied; // the weights decide
    if (config.eosTokenId !== undefined) rest.eos_token_id = config.eosTokenId; // a template may have changed it
    return {...rest, ...(torch_dtype !== undefined && !('dtype' in source) ? {torch_dtype: dtype} : {dtype})};
  }
  const scaling = config.ropeScaling;
  const rope = !scaling
    ? null
    : scaling.type === 'linear'
      ? {rope_type: 'linear', factor: scaling.factor}
      : {
          rope_type: 'llama3',
          factor: scaling.factor,
          low_freq_factor: scaling.lowFreqFactor,
          high_freq_factor: scaling.highFreqFactor,
          original_max_position_embeddings: scaling.originalMaxPositionEmbeddings,
        };
  return {
    architectures: [family.architecture],
    attention_bias: config.attentionBias,
    attention_dropout: config.attentionDropout,
    ...(config.bosTokenId !== undefined && {bos_token_id: config.bosTokenId}),
    ...(config.eosTokenId !== undefined && {eos_token_id: config.eosTokenId}),
    ...(config.padTokenId !== undefined && {pad_token_id: config.padTokenId}),
    head_dim: config.headDim,
    hidden_act: family.hiddenAct,
    hidden_size: config.hiddenSize,
    initializer_range: config.initializerRange,
    intermediate_size: config.intermediateSize,
    max_position_embeddings: config.maxPositionEmbeddings,
    mlp_bias: config.mlpBias,
    model_type: family.modelType,
    num_attention_heads: config.numAttentionHeads,
    num_hidden_layers: config.numHiddenLayers,
    num_key_value_heads: config.numKeyValueHeads,
    rms_norm_eps: config.rmsNormEps,
    rope_scaling: rope,
    rope_theta: config.ropeTheta,
    ...(config.summaryDropoutProb !== undefined && {summary_dropout_prob: config.summaryDropoutProb}),
    tie_word_embeddings: config.tieWordEmbeddings,
    torch_dtype: dtype,
    vocab_size: config.vocabSize,
  };
}

const SIZES = [
  'vocabSize',
  'hiddenSize',
  'intermediateSize',
  'numHiddenLayers',
  'numAttentionHeads',
  'numKeyValueHeads',
  'headDim',
  'maxPositionEmbeddings',
] as const;

/** @param spell returns the source's name of a key, for messages */
function validated(config: LlamaConfig, where: string, spell = (key: string) => key): LlamaConfig {
  for (const key of SIZES) {
    if (Number.isInteger(config[key]) && config[key] > 0) continue;
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} ${spell(key)}: expected a positive integer, got ${show(config[key])}`,
    );
  }
  for (const key of ['rmsNormEps', 'ropeTheta'] as const) {
    if (Number.isFinite(config[key]) && config[key] > 0) continue;
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} ${spell(key)}: expected a positive number, got ${show(config[key])}`,
    );
  }
  for (const key of ['tieWordEmbeddings', 'attentionBias', 'mlpBias'] as const) {
    if (typeof config[key] === 'boolean') continue;
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} ${spell(key)}: expected true or false, got ${show(config[key])}`,
    );
  }
  if (!(Number.isFinite(config.initializerRange) && config.initializerRange >= 0)) {
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} ${spell('initializerRange')}: expected a number from 0, got ${show(config.initializerRange)}`,
    );
  }
  for (const key of ['bosTokenId', 'eosTokenId', 'padTokenId'] as const) {
    if ([config[key] ?? []].flat().every((id) => Number.isSafeInteger(id))) continue;
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} ${spell(key)}: expected a token id, got ${show(config[key])}`,
    );
  }
  if (config.numAttentionHeads % config.numKeyValueHeads !== 0) {
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} ${spell('numKeyValueHeads')}: expected a divisor of ${config.numAttentionHeads} heads, ` +
        `got ${config.numKeyValueHeads}`,
    );
  }
  for (const key of ['attentionDropout', 'summaryDropoutProb'] as const) {
    const dropout: unknown = config[key] ?? 0;
    if (typeof dropout === 'number' && dropout >= 0 && dropout < 1) continue;
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} ${spell(key)}: expected 0 ≤ p < 1, got ${show(dropout)}`,
    );
  }
  if (config.headDim % 2 !== 0) {
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} ${spell('headDim')}: expected an even number, got ${config.headDim}`,
    );
  }
  return config;
}
