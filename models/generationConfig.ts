import {TfjsLoraError} from '../quant/errors.ts';
import {
  type FolderSource,
  type FolderTarget,
  folderToWrite,
  openFolder,
} from '../quant/folders/openFolder.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import {show} from '../quant/show.ts';
import {readJsonIfPresent} from './jsonFile.ts';

const FILE = 'generation_config.json';

/**
 * Settings of text generation. An omitted setting comes from the model's `generation_config.json`, or else from
 * Hugging Face's defaults ({@link defaultGenerationConfig}).
 */
export interface GenerationConfig {
  /** Maximum number of generated tokens; overrides `maxLength`. Default 20 when neither is set, as in transformers. */
  maxNewTokens?: number;
  /** Maximum number of prompt and generated tokens together. */
  maxLength?: number;
  /** Number of tokens that must be generated before an end-of-sequence token may come. Default 0. */
  minNewTokens?: number;
  /**
   * Whether to draw each token from the model's distribution; otherwise the most likely one is chosen. Default false.
   */
  doSample?: boolean;
  /**
   * Divisor of the logits before sampling: values below 1 favour likely tokens, and values above 1 make tokens more
   * equally likely. Only with `doSample`. Default 1.
   */
  temperature?: number;
  /** Number of likeliest tokens to sample from; 0 for all. Only with `doSample`. Default 50. */
  topK?: number;
  /** Probability that the likeliest tokens to sample from must reach together. Only with `doSample`. Default 1. */
  topP?: number;
  /** Least probability of a token to sample, as a fraction of the likeliest's. Only with `doSample`. Default 0. */
  minP?: number;
  /** Penalty for tokens of the prompt and of the text so far: above 1 makes them less likely. Default 1. */
  repetitionPenalty?: number;
  /** Strings that end the text. The text stops before the first of them. */
  stopStrings?: string | string[];
  bosTokenId?: number;
  /** Tokens that end a sequence. */
  eosTokenId?: number | number[];
  padTokenId?: number;
  /** Seed that makes sampling repeatable. Default: a new one for each call. Not part of `generation_config.json`. */
  seed?: number | string;
  /** Keys of `generation_config.json` that this library does not read. Saving writes them back. */
  otherKeys?: Record<string, unknown>;
}

/** Resolved settings, as the generation loop uses them. */
export interface ResolvedGenerationConfig {
  /** Undefined when `maxLength` decides. */
  maxNewTokens?: number;
  maxLength?: number;
  minNewTokens: number;
  doSample: boolean;
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  stopStrings: string[];
  eosTokenIds: number[];
  seed?: number | string;
}

/** Defaults for settings that neither the caller nor the model gives, as in transformers 5. */
export const defaultGenerationConfig = {
  maxNewTokens: 20,
  minNewTokens: 0,
  doSample: false,
  temperature: 1,
  topK: 50,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
} as const;

interface KeyRule {
  /** The key in `generation_config.json`; absent when the setting is not stored there. */
  file?: string;
  expected: string;
  accepts(value: unknown): boolean;
}

const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value);
const isInteger = (value: unknown): value is number => Number.isSafeInteger(value);
const isTokenId = (value: unknown): boolean => isInteger(value) && value >= 0;
const atLeast = (file: string, least: number): KeyRule => ({
  file,
  expected: `a whole number of ${least} or more`,
  accepts: (value) => isInteger(value) && value >= least,
});
const positive = (file: string): KeyRule => ({
  file,
  expected: 'a number above 0',
  accepts: (value) => isNumber(value) && value > 0,
});
const fraction = (file: string): KeyRule => ({
  file,
  expected: 'a number of 0 to 1',
  accepts: (value) => isNumber(value) && value >= 0 && value <= 1,
});
const tokenId = (file: string): KeyRule => ({file, expected: 'a token id', accepts: isTokenId});

/** Names in `generation_config.json` and limits of every setting. */
const rules: Record<Exclude<keyof GenerationConfig, 'otherKeys'>, KeyRule> = {
  maxNewTokens: atLeast('max_new_tokens', 1),
  maxLength: atLeast('max_length', 1),
  minNewTokens: atLeast('min_new_tokens', 0),
  doSample: {file: 'do_sample', expected: 'true or false', accepts: (value) => typeof value === 'boolean'},
  temperature: {
    ...positive('temperature'),
    expected: 'a number above 0 (for greedy decoding, doSample: false)',
  },
  topK: atLeast('top_k', 0),
  topP: fraction('top_p'),
  minP: fraction('min_p'),
  repetitionPenalty: positive('repetition_penalty'),
  stopStrings: {
    file: 'stop_strings',
    expected: 'a non-empty string or a list of them',
    accepts: (value) => asList(value).every((item) => typeof item === 'string' && item !== ''),
  },
  bosTokenId: tokenId('bos_token_id'),
  eosTokenId: {
    file: 'eos_token_id',
    expected: 'a token id or a list of them',
    accepts: (value) => asList(value).every(isTokenId),
  },
  padTokenId: tokenId('pad_token_id'),
  seed: {expected: 'a number or a string', accepts: (value) => isNumber(value) || typeof value === 'string'},
};

/** Settings of transformers that change the tokens but are not implemented, with the values that turn them off. */
const unsupportedUnless: Record<string, unknown[]> = {
  num_beams: [1],
  num_return_sequences: [1],
  no_repeat_ngram_size: [0],
  encoder_repetition_penalty: [1],
  penalty_alpha: [0],
  typical_p: [1],
  epsilon_cutoff: [0],
  eta_cutoff: [0],
  top_h: [],
  bad_words_ids: [],
  forced_bos_token_id: [],
  forced_eos_token_id: [],
  suppress_tokens: [],
  begin_suppress_tokens: [],
  sequence_bias: [],
  exponential_decay_length_penalty: [],
  guidance_scale: [1],
  dola_layers: [],
};

const settingNames = Object.keys(rules) as (keyof typeof rules)[];
/** Names of the settings that a caller can give. */
export const GENERATION_SETTINGS = Object.fromEntries(
  settingNames.map((name) => [name, true]),
) as OptionNames<Omit<GenerationConfig, 'otherKeys'>>;

/**
 * Reads the parsed contents of a `generation_config.json`. Null means absent, as in Python.
 *
 * @param where the file, for messages
 * @throws TfjsLoraError `INVALID_CONFIG` naming the file and the key
 */
export function parseGenerationConfig(json: unknown, where = FILE): GenerationConfig {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new TfjsLoraError('INVALID_CONFIG', `${where}: expected a JSON object, got ${show(json)}`);
  }
  const others: Record<string, unknown> = {...json};
  const config: Record<string, unknown> = {};
  for (const name of settingNames) {
    const {file, expected, accepts} = rules[name];
    if (file === undefined || !Object.hasOwn(others, file)) continue;
    const value = others[file];
    delete others[file];
    if (value === null) continue;
    if (!accepts(value)) {
      throw new TfjsLoraError('INVALID_CONFIG', `${where} ${file}: expected ${expected}, got ${show(value)}`);
    }
    config[name] = value;
  }
  return Object.keys(others).length > 0 ? {...config, otherKeys: others} : config;
}

/** Returns the contents of a `generation_config.json`: the inverse of {@link parseGenerationConfig}. */
export function serializeGenerationConfig(config: GenerationConfig): Record<string, unknown> {
  const json: Record<string, unknown> = {...config.otherKeys};
  for (const name of settingNames) {
    const {file} = rules[name];
    if (file !== undefined && config[name] !== undefined) json[file] = config[name];
  }
  return Object.fromEntries(Object.entries(json).sort(([a], [b]) => (a < b ? -1 : 1)));
}

/**
 * Reads `generation_config.json` of a Hugging Face folder.
 *
 * @param fallback settings for a folder without the file: transformers takes the special ids of `config.json`
 * @throws TfjsLoraError `CORRUPT_FILE` or `INVALID_CONFIG` naming the file and the key
 */
export async function readGenerationConfig(
  source: FolderSource,
  fallback: GenerationConfig = {},
): Promise<GenerationConfig> {
  const folder = openFolder(source);
  const json = await readJsonIfPresent(folder, FILE);
  return json === undefined ? {...fallback} : parseGenerationConfig(json, folder.pathOf(FILE));
}

/** Writes `generation_config.json` into a folder, as transformers does: sorted keys, indent 2. */
export async function writeGenerationConfig(folder: FolderTarget, config: GenerationConfig): Promise<void> {
  const json = serializeGenerationConfig(config);
  await folderToWrite(folder).write(FILE, `${JSON.stringify(json, null, 2)}\n`);
}

/**
 * Resolves every setting: the caller's options override the model's, and these the defaults.
 *
 * The sampling settings have no effect with `doSample: false`, as in transformers.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown or impossible option; `UNSUPPORTED` when the model's file
 *   requests a decoding method that is not implemented
 */
export function resolveGenerationConfig(
  model: GenerationConfig,
  options: Omit<GenerationConfig, 'otherKeys'> = {},
): ResolvedGenerationConfig {
  assertKnownOptions('generate', options, GENERATION_SETTINGS);
  for (const [name, value] of Object.entries(options)) {
    const rule = rules[name as keyof typeof rules];
    if (value !== undefined && !rule.accepts(value)) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `generation option ${name}: expected ${rule.expected}, got ${show(value)}`,
      );
    }
  }
  for (const [key, value] of Object.entries(model.otherKeys ?? {})) {
    const off = Object.hasOwn(unsupportedUnless, key) ? unsupportedUnless[key] : undefined;
    if (off === undefined || value === null || off.includes(value)) continue;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `generation_config.json ${key}: expected it to be off, got ${show(value)}. This library decodes ` +
        'greedily or by sampling; delete the key from model.generationConfig.otherKeys to generate without it.',
    );
  }
  const set: GenerationConfig = {...model, ...definedOnly(options)};
  // A length from the caller replaces both lengths of the model's file.
  if (options.maxLength !== undefined && options.maxNewTokens === undefined) set.maxNewTokens = undefined;
  if (set.maxLength === undefined) set.maxNewTokens ??= defaultGenerationConfig.maxNewTokens;
  return {
    maxNewTokens: set.maxNewTokens,
    maxLength: set.maxNewTokens === undefined ? set.maxLength : undefined,
    minNewTokens: set.minNewTokens ?? defaultGenerationConfig.minNewTokens,
    doSample: set.doSample ?? defaultGenerationConfig.doSample,
    temperature: set.temperature ?? defaultGenerationConfig.temperature,
    topK: set.topK ?? defaultGenerationConfig.topK,
    topP: set.topP ?? defaultGenerationConfig.topP,
    minP: set.minP ?? defaultGenerationConfig.minP,
    repetitionPenalty: set.repetitionPenalty ?? defaultGenerationConfig.repetitionPenalty,
    stopStrings: asList(set.stopStrings ?? []) as string[],
    eosTokenIds: asList(set.eosTokenId ?? []) as number[],
    seed: set.seed,
  };
}

function asList(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [value];
}

function definedOnly<T extends object>(values: T): Partial<T> {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Partial<T>;
}
