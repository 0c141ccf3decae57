import type {OptionNames} from '../../../quant/knownOptions.ts';

/** How a model's answers are sampled in training. */
export interface SamplingArgs {
  /** Tokens of the longest answer. Default 256. */
  maxNewTokens?: number;
  /** Temperature, above 0. Default 1. */
  temperature?: number;
  /** Number of likeliest tokens to sample from; 0 for all. Default 0. */
  topK?: number;
  /** Probability that the likeliest tokens must reach together. Default 1. */
  topP?: number;
  /** Least probability of a token, as a fraction of the likeliest's. Default 0. */
  minP?: number;
  /** Penalty for repeated tokens. Default 1. */
  repetitionPenalty?: number;
}
export const SAMPLING_OPTIONS = {
  maxNewTokens: true,
  temperature: true,
  topK: true,
  topP: true,
  minP: true,
  repetitionPenalty: true,
} satisfies OptionNames<SamplingArgs>;

export const SAMPLING_DEFAULTS = {
  maxNewTokens: 256,
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
} as const satisfies Required<SamplingArgs>;

/** Returns the settings of generation among those of a loss. */
export function samplingOf<T extends Required<SamplingArgs>>(settings: T) {
  const {maxNewTokens, temperature, topK, topP, minP, repetitionPenalty} = settings;
  return {doSample: true, maxNewTokens, temperature, topK, topP, minP, repetitionPenalty};
}
