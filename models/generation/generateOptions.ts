import type {KeyValueCache} from '../../layers/keyValueCache.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import type {OptionNames} from '../../quant/knownOptions.ts';
import {GENERATION_SETTINGS, type GenerationConfig} from '../generationConfig.ts';
import type {Tokenizer} from '../tokenizer.ts';
import type {DecodedAdapters, DecodedModel} from './decoder.ts';
import type {JsonSchema} from './json/jsonGrammar.ts';

/** The part of a model that generation needs. */
export interface GenerativeModel extends DecodedModel {
  newCache(): KeyValueCache;
  /**
   * Prepares passes in which each row has its own adapter, if the model has adapters.
   *
   * @param names the adapter of each row
   */
  rowAdapters?(names: readonly string[]): DecodedAdapters & {dispose(): void};
  /** Refuses to compute with adapters that are active for another call, if the model has adapters. */
  assertOwnCall?(what: string): void;
  readonly tokenizer?: Tokenizer;
  readonly generationConfig?: GenerationConfig;
  readonly config: {readonly vocabSize: number; readonly maxPositionEmbeddings: number};
}

/** @throws TfjsLoraError `UNSUPPORTED` for a model without a tokenizer */
export function requireTokenizer({tokenizer}: GenerativeModel): Tokenizer {
  if (tokenizer) return tokenizer;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    'text generation: expected a model with a tokenizer, got one without. Load a folder that has tokenizer.json, ' +
      'set model.tokenizer, or use generateIds with token ids.',
  );
}

/** A text, or its token ids. */
export type Prompt = string | number[];

/** Progress of a generation. */
export interface GenerateProgress {
  /** Number of prompts that are answered. */
  done: number;
  /** Number of all prompts. */
  total: number;
  /** Number of tokens generated so far, for all prompts. */
  newTokens: number;
}

/** Settings of a generation, and options for watching and stopping it. */
export interface GenerateOptions extends Omit<GenerationConfig, 'otherKeys'> {
  /** Called after each token of the batch. */
  onProgress?: (progress: GenerateProgress) => void;
  /** Stops the generation before the next token, with the signal's reason as the error. */
  signal?: AbortSignal;
  /**
   * JSON schema that the answer is valid against, unless `maxNewTokens` cuts it off: tokens that would make it invalid
   * are not chosen. `true` allows any JSON value. Default: any text.
   */
  jsonSchema?: JsonSchema;
  /**
   * Name of the adapter for each prompt, or one name for all; `__base__` means no adapter. Default: the active adapters.
   */
  adapterNames?: string | readonly string[];
}
/** The options of `generate`. */
export const GENERATE_OPTIONS = {
  ...GENERATION_SETTINGS,
  onProgress: true,
  signal: true,
  jsonSchema: true,
  adapterNames: true,
} satisfies OptionNames<GenerateOptions>;

export interface StreamTokensOptions extends GenerateOptions {
  /**
   * Number of alternatives to report with each token; 0 reports only its own probability. Default: neither is reported.
   */
  alternatives?: number;
}
