import * as tf from '@tensorflow/tfjs';
import {type Batch, IGNORE_INDEX, type TokenLossesOptions} from '../../../models/batchLoss.ts';
import {generateIds} from '../../../models/generation/generate.ts';
import type {GenerateProgress} from '../../../models/generation/generateOptions.ts';
import {type GenerationConfig, resolveGenerationConfig} from '../../../models/generationConfig.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {collate} from '../../data/batches/collate.ts';
import type {LossModel} from './lossModel.ts';
import type {PromptBatch, RolloutModel, RolloutOptions, RolloutPrompt} from './rollouts.ts';

/** An answer that the model gave in training. */
export interface Answer {
  prompt: RolloutPrompt;
  /** Token ids, with the one that ended it. */
  ids: number[];
  /** Text without special tokens. */
  text: string;
  /** Whether it was cut off before it ended. */
  isTruncated: boolean;
}

/**
 * Answers each prompt `count` times, all in one pass with a key-value cache.
 *
 * @returns the answers of the first prompt, then those of the second …
 */
export async function answerPrompts(
  model: RolloutModel,
  prompts: RolloutPrompt[],
  count: number,
  sampling: GenerationConfig,
  {seed, signal, onProgress}: Pick<RolloutOptions, 'seed' | 'signal' | 'onProgress'>,
): Promise<Answer[]> {
  const repeated = prompts.flatMap((prompt) => Array.from({length: count}, () => prompt));
  const given = {...sampling, eosTokenId: sampling.eosTokenId ?? prompts[0].stopIds, seed};
  const {eosTokenIds} = resolveGenerationConfig(model.generationConfig ?? {}, given);
  const inputs = repeated.map(({inputIds}) => inputIds);
  let latest: GenerateProgress | undefined;
  const watch = (progress: GenerateProgress) => {
    latest = progress;
  };
  const rows = await generateIds(
    model,
    inputs,
    {...given, signal, onProgress: watch},
    () => latest && onProgress?.(latest),
  );
  return rows.map((ids, row) => ({
    prompt: repeated[row],
    ids,
    text: model.tokenizer!.decode(ids, {skipSpecialTokens: true}),
    isTruncated: !eosTokenIds.includes(ids[ids.length - 1]),
  }));
}

/** Makes a batch of answers, whose tokens are the labels. */
export function answerBatch(
  answers: Answer[],
  padTokenId: number,
  maxLength: number,
): Required<Pick<Batch, 'inputIds' | 'labels' | 'attentionMask'>> {
  const examples = answers.map(({prompt: {inputIds}, ids}) => ({
    inputIds: [...inputIds, ...ids],
    labels: [...inputIds.map(() => IGNORE_INDEX), ...ids],
  }));
  const {inputIds, labels, attentionMask} = collate(examples, {padTokenId, maxLength});
  return {inputIds, labels, attentionMask: attentionMask as number[][]};
}

/** Computes the losses of a batch's labels without a gradient, and reads them. */
export async function lossesOf(
  model: Required<Pick<LossModel, 'tokenLosses'>>,
  batch: Batch,
  options: Pick<TokenLossesOptions, 'temperature'> = {},
): Promise<Float32Array> {
  return valuesOf(tf.tidy(() => model.tokenLosses(batch, options).losses));
}

/** Reads a tensor and disposes it. */
export async function valuesOf(tensor: tf.Tensor): Promise<Float32Array> {
  try {
    return (await tensor.data()) as Float32Array;
  } finally {
    tensor.dispose();
  }
}

/** Returns the prompts of batches; they are not ready-made batches of token ids and labels. */
export function promptsOf(batches: PromptBatch[]): RolloutPrompt[][] {
  return batches.map(({prompts}) => {
    if (prompts) return prompts;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      'fitDataset data: expected prompts, which the compiled loss has the model answer, got a batch. Pass its rows one ' +
        'by one, as {inputIds} or records.',
    );
  });
}
