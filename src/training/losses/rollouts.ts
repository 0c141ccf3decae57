import type {Batch} from '../../../models/batchLoss.ts';
import type {GenerateProgress, GenerativeModel} from '../../../models/generation/generateOptions.ts';
import {type AnyExample, type CollateOptions, collate, type Example} from '../../data/batches/collate.ts';
import type {LossModel} from './lossModel.ts';

/** A prompt that a model answers in training: token ids without labels. */
export interface RolloutPrompt extends Example {
  /** Tokens that end an answer. Default: the model's. */
  stopIds?: number[];
}

/** A batch of prompts. */
export interface PromptBatch extends Batch {
  prompts: RolloutPrompt[];
}

/** Makes a batch of prompts, which keeps them. */
export function promptBatch(prompts: AnyExample[], options?: CollateOptions): PromptBatch {
  return {...collate(prompts, options), prompts: prompts as RolloutPrompt[]};
}

/** A model that can answer prompts while it is trained. */
export type RolloutModel = LossModel & GenerativeModel;

export interface RolloutOptions {
  /** Seed for sampling. */
  seed: string;
  /** Batches in an optimizer step. */
  batchesPerStep: number;
  /** Id of the padding token. */
  padTokenId: number;
  /** Whether the answers are only evaluated. */
  isEvaluation?: boolean;
  /** Called and awaited after each token of a batch. */
  onProgress?: (progress: GenerateProgress) => void | Promise<void>;
  /** Stops the generation, with the signal's reason as the error. */
  signal?: AbortSignal;
}

/** Answers to one prompt, with their rewards. */
export interface ScoredAnswers {
  prompt: string;
  answers: string[];
  /** Sum of the weighted rewards of each answer. */
  rewards: number[];
}

/** The data that a step learns from. */
export interface Rollout {
  /** Batches of each update of the weights, in order. */
  updates: Batch[][];
  answers: ScoredAnswers[];
}

/** Makes the data that a loss learns from: the model answers prompts. */
export interface Rollouts {
  /** Accumulation windows of prompts that are answered before the weights are updated. */
  readonly windowsPerStep: number;
  /** Number of answers to a prompt, and of tokens in the longest one. */
  readonly answersPerPrompt: number;
  readonly maxNewTokens: number;
  /** Whether answers can be evaluated without a step. */
  readonly canEvaluate: boolean;
  /** Answers prompts. */
  rollOut(model: RolloutModel, batches: PromptBatch[], options: RolloutOptions): Promise<Rollout>;
  /** Returns the state that a resumed run needs, as JSON, and restores it. */
  getState?(): Record<string, unknown>;
  setState?(state: Record<string, unknown>): void;
}
