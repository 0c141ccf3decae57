import type {RopeScaling} from '../../layers/ropeFrequencies.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../quant/knownOptions.ts';
import {show} from '../../quant/show.ts';
import {formatRopeScaling, parseRope} from './ropeConfig.ts';

export type Json = Record<string, unknown>;

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

/** Settings that a new config may omit. */
type Required = 'vocabSize' | 'hiddenSize' | 'intermediateSize' | 'numHiddenLayers' | 'numAttentionHeads';
export type LlamaConfigArgs = Pick<LlamaConfig, Required> & Partial<LlamaConfig>;

/** What distinguishes a family whose configs have Llama's format. */
export interface LlamaFamily {
  readonly modelType: string;
  readonly architecture: string;
  /** The activation of the feed-forward, by the name that `hidden_act` has for it. */
  readonly hiddenAct: string;
  /** Default values of keys, if they differ from Llama's, and of all keys that only the family has. */
  readonly configDefaults?: Json;
}
/** The family of Meta's models. */
export const LLAMA: LlamaFamily = {
  modelType: 'llama',
  architecture: 'LlamaForCausalLM',
  hiddenAct: 'silu',
};

/** Default values of a config's keys. */
const DEFAULTS = {
  maxPositionEmbeddings: 2048,
  rmsNormEps: 1e-6,
  ropeTheta: 10000,
  tieWordEmbeddings: false,
  attentionBias: false,
  mlpBias: false,
  attentionDropout: 0,
  initializerRange: 0.02,
} satisfies Partial<LlamaConfig>;

/**
 * Checks a config and fills in defaults.
 *
 * @param hasOwnKeys whether the model's class reads keys that are not among the family's defaults, and do not change.
 *   Default false
 */
export function withDefaults(
  args: LlamaConfigArgs,
  {configDefaults}: LlamaFamily = LLAMA,
  hasOwnKeys = false,
): LlamaConfig {
  if (!hasOwnKeys) assertKnownOptions('Llama config', args, {...CONFIG_KEYS, ...namesOf(configDefaults)});
  const config: LlamaConfig = {
    numKeyValueHeads: args.numAttentionHeads,
    headDim: args.hiddenSize / args.numAttentionHeads,
    ...DEFAULTS,
    ...configDefaults,
    ...args,
  };
  return validated(config, 'Llama config');
}

const namesOf = (keys: Json = {}) => Object.fromEntries(Object.keys(keys).map((key) => [key, true as const]));

/** Returns the keys that only the family's configs have. */
const ownKeysOf = ({configDefaults = {}}: LlamaFamily): string[] =>
  Object.keys(configDefaults).filter((key) => !(key in CONFIG_KEYS));

/** Returns the name that `config.json` has for a key: `hidden_size` for `hiddenSize`. */
const inFile = (key: string): string => key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/**
 * Reads a Hugging Face `config.json`. The rotary settings are `rope_theta` and `rope_scaling` in transformers 4,
 * `rope_parameters` in transformers 5. Keys that the family alone has are read as they are; `null` counts as a value.
 *
 * @param where the file, for messages
 * @param family family that the file must name, if it names one
 * @throws TfjsLoraError `INVALID_CONFIG` naming the key, `UNSUPPORTED` for another family
 */
export function parseConfig(json: Json, where = 'config.json', family: LlamaFamily = LLAMA): LlamaConfig {
  const {modelType, hiddenAct, configDefaults} = family;
  const type = json.model_type;
  if (type !== undefined && type !== modelType) {
    throw new TfjsLoraError('UNSUPPORTED', `${where} model_type: expected "${modelType}", got ${show(type)}`);
  }
  const act = json.hidden_activation ?? json.hidden_act;
  if (act !== undefined && act !== hiddenAct) {
    throw new TfjsLoraError('UNSUPPORTED', `${where} hidden_act: expected "${hiddenAct}", got ${show(act)}`);
  }
  const defaults: Json = {...DEFAULTS, ...configDefaults};
  const read = <Key extends keyof LlamaConfig>(key: Key, fallback?: LlamaConfig[Key]): LlamaConfig[Key] => {
    const value = json[inFile(key)] ?? defaults[key] ?? fallback;
    if (value !== undefined) return value as LlamaConfig[Key];
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} ${inFile(key)}: expected a value, got none. Is this a ${family.architecture.replace('ForCausalLM', '')} folder?`,
    );
  };
  const own = (key: string) => (inFile(key) in json ? json[inFile(key)] : defaults[key]);
  const [hidden, heads] = [read('hiddenSize'), read('numAttentionHeads')];
  const maxPositionEmbeddings = read('maxPositionEmbeddings');
  const {theta, scaling} = parseRope(json, maxPositionEmbeddings, where);
  return validated(
    {
      vocabSize: read('vocabSize'),
      hiddenSize: hidden,
      intermediateSize: read('intermediateSize'),
      numHiddenLayers: read('numHiddenLayers'),
      numAttentionHeads: heads,
      numKeyValueHeads: read('numKeyValueHeads', heads),
      headDim: read('headDim', isNumber(hidden) && isNumber(heads) ? hidden / heads : Number.NaN),
      maxPositionEmbeddings,
      rmsNormEps: read('rmsNormEps'),
      ropeTheta: theta ?? (defaults.ropeTheta as number),
      ropeScaling: scaling,
      tieWordEmbeddings: read('tieWordEmbeddings'),
      attentionBias: read('attentionBias'),
      mlpBias: read('mlpBias'),
      attentionDropout: read('attentionDropout'),
      initializerRange: read('initializerRange'),
      bosTokenId: (json.bos_token_id as number) ?? undefined,
      eosTokenId: (json.eos_token_id as number | number[]) ?? undefined,
      padTokenId: (json.pad_token_id as number) ?? undefined,
      // null switches it off, as in TRL
      summaryDropoutProb: json.summary_dropout_prob === null ? 0 : (json.summary_dropout_prob as number),
      ...Object.fromEntries(ownKeysOf(family).map((key) => [key, own(key)])),
      source: json,
    },
    where,
    inFile,
  );
}

const isNumber = (value: unknown): boolean => typeof value === 'number';

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
    if (config.vocabSize !== source.vocab_size) rest.vocab_size = config.vocabSize; // it may have been resized
    if (config.eosTokenId !== undefined) rest.eos_token_id = config.eosTokenId; // a template may have changed it
    return {...rest, ...(torch_dtype !== undefined && !('dtype' in source) ? {torch_dtype: dtype} : {dtype})};
  }
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
    rope_scaling: formatRopeScaling(config.ropeScaling),
    rope_theta: config.ropeTheta,
    ...(config.summaryDropoutProb !== undefined && {summary_dropout_prob: config.summaryDropoutProb}),
    tie_word_embeddings: config.tieWordEmbeddings,
    torch_dtype: dtype,
    vocab_size: config.vocabSize,
    ...Object.fromEntries(ownKeysOf(family).map((key) => [inFile(key), (config as unknown as Json)[key]])),
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
  const {ropeScaling} = config;
  if (
    ropeScaling?.type === 'dynamic' &&
    ropeScaling.originalMaxPositionEmbeddings !== config.maxPositionEmbeddings
  ) {
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} ${spell('ropeScaling')}: expected originalMaxPositionEmbeddings ${config.maxPositionEmbeddings}, the ` +
        `model's own length, with dynamic, got ${ropeScaling.originalMaxPositionEmbeddings}`,
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
