import * as tf from '@tensorflow/tfjs';
import {generateIds} from '../../../models/generation/generate.ts';
import type {GenerativeModel} from '../../../models/generation/generateOptions.ts';
import {
  GENERATION_SETTINGS,
  type GenerationConfig,
  resolveGenerationConfig,
} from '../../../models/generationConfig.ts';

import type {Tokenizer} from '../../../models/tokenizer.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {RunFolder} from '../../../quant/folders/runFolder.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import type {PromptExample} from '../../data/preprocessing/promptExample.ts';
import {ranks} from '../cluster/ranks.ts';
import {jiebaWords} from '../metrics/jiebaWords.ts';
import {openRunFolder} from '../output/diskRunFolder.ts';
import {writeResults} from '../output/resultFiles.ts';
import {type Prediction, type PredictionScores, scoreMetrics, scorePredictions} from './predictionScores.ts';
import {type PredictionData, readPrompts} from './readPrompts.ts';

export interface PredictionProgress {
  /** Number of prompts answered. */
  done: number;
  /** Number of all prompts; of a stream, those that have arrived. */
  total: number;
  newTokens: number;
  seconds: number;
}

export interface PredictOptions extends Omit<GenerationConfig, 'otherKeys'> {
  /** Number of prompts in a batch. Default 8. */
  batchSize?: number;
  /** Whether special tokens such as `<|eot_id|>` are left out of the answers. Default true. */
  skipSpecialTokens?: boolean;
  /** Folder for `generated_predictions.jsonl`, `predict_results.json` and `all_results.json`. Default: not written. */
  outputDir?: string | RunFolder;
  /**
   * Signal to stop: the prediction ends after the current token with the signal's reason as an error, and writes
   * nothing.
   */
  signal?: AbortSignal;
  /** Called before the first batch and after each one, and awaited. */
  onProgress?: (progress: PredictionProgress) => void;
}
/** The options of {@link predictDataset}. */
export const PREDICT_OPTIONS = {
  ...GENERATION_SETTINGS,
  batchSize: true,
  skipSpecialTokens: true,
  outputDir: true,
  onProgress: true,
  signal: true,
} satisfies OptionNames<PredictOptions>;

export interface PredictionRun {
  /** Answers in the order of the prompts. */
  predictions: Prediction[];
  scores: PredictionScores;
  /** Scores and speed under their names in `predict_results.json`. */
  metrics: Record<string, number>;
  newTokens: number;
  seconds: number;
  /** Peak size of all tensors in bytes: the weights, and the keys and values of a batch. */
  peakBytes: number;
}

/**
 * Answers prompts and scores the answers, as LLaMA-Factory's `do_predict` does, in left-padded batches with a key-value
 * cache. A list is answered from the longest prompt to the shortest, so that the prompts of a batch have similar
 * lengths, and a lack of memory shows early. A stream is answered a batch at a time as it arrives. With several ranks,
 * each answers its share of the batches, and the first one writes.
 *
 * The prompt is everything in a record before its last answer, which is the expected answer. The template says which
 * tokens end an answer. Greedy answers do not depend on the batch size. Sampled ones do; a seed makes them repeatable
 * for one batch size.
 *
 * @param data records, prompts (from `loadPrompts` or your own), or examples of token ids, in a list or as they arrive
 * @throws TfjsLoraError before anything of a list is generated: `INVALID_ARGUMENT` without prompts, for a prompt that
 *   is empty or leaves no room below `maxPositionEmbeddings`, for a record without a question, and for an invalid
 *   option; `VOCABULARY_MISMATCH`; `UNSUPPORTED` when the model has no tokenizer; and the errors of
 *   `llamaFactoryScores`
 * @example
 * ```ts
 * import {Llama} from 'tfjs-lora';
 * import {formatScores, predictDataset} from 'tfjs-lora/evaluation';
 *
 * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
 * const records = [{prompt: 'Who founded Adaville?', completion: 'Ada did.'}];
 * const run = await predictDataset(model, records, {maxNewTokens: 64});
 * console.log(formatScores(run.scores));
 * ```
 */
export async function predictDataset(
  model: GenerativeModel,
  data: PredictionData,
  options: PredictOptions = {},
): Promise<PredictionRun> {
  assertKnownOptions('predictDataset', options, PREDICT_OPTIONS);
  const {batchSize = 8, skipSpecialTokens = true, onProgress, signal: own, ...others} = options;
  const {outputDir: folder, ...generation} = others;
  const outputDir = ranks().isFirst && folder !== undefined ? openRunFolder(folder) : undefined;
  const signal = ranks().agreed(own);
  const tokenizer = requireTokenizer(model);
  const measured = measureMemory(model);
  const predictions: Prediction[] = [];
  const progress = {done: 0, total: 0, newTokens: 0, seconds: 0};
  let [steps, started] = [0, 0];
  for await (const {prompts, stopIds} of readPrompts(data, batchSize * ranks().size, tokenizer)) {
    const before = predictions.length;
    await assertPredictable(model, prompts, options, before);
    if (before === 0) {
      await outputDir?.create();
      started = performance.now();
    }
    progress.total += prompts.length;
    if (before === 0) await onProgress?.({...progress});
    for (const {prompt, label} of prompts) predictions.push({prompt, predict: '', label});
    const order = prompts
      .map(({promptIds}, index) => ({index, length: promptIds.length}))
      .sort((a, b) => b.length - a.length);
    for (let first = 0; first < order.length; first += batchSize * ranks().size) {
      signal?.throwIfAborted();
      const [start = order.length] = ranks().share(
        Array.from({length: ranks().size}, (_, i) => first + i * batchSize),
      );
      const batch = order.slice(start, start + batchSize); // empty for a rank without a share
      const seed = generation.seed === undefined ? undefined : `${generation.seed}/${before + start}`;
      const promptIds = batch.map(({index}) => prompts[index].promptIds);
      const settings = {...generation, eosTokenId: generation.eosTokenId ?? stopIds, seed, signal};
      const ids = batch.length === 0 ? [] : await generateIds(measured.model, promptIds, settings);
      const answers = batch.map(
        ({index}, row): Answer => [index, tokenizer.decode(ids[row], {skipSpecialTokens}), ids[row].length],
      );
      for (const text of await ranks().gather(JSON.stringify(answers)))
        for (const [index, answer, newTokens] of JSON.parse(text) as Answer[]) {
          predictions[before + index].predict = answer;
          progress.newTokens += newTokens;
          progress.done++;
        }
      steps += Math.min(ranks().size, Math.ceil((order.length - first) / batchSize));
      progress.seconds = (performance.now() - started) / 1000;
      await onProgress?.({...progress});
    }
  }

  if (outputDir !== undefined) await writePredictions(outputDir, predictions);
  const scores = await scorePredictions(predictions);
  const {newTokens, seconds} = progress;
  const metrics = {...scoreMetrics(scores), ...speedMetrics(seconds, predictions.length, steps)};
  if (outputDir !== undefined) await writeResults(outputDir, 'predict', metrics);
  return {predictions, scores, metrics, newTokens, seconds, peakBytes: measured.peakBytes()};
}

/** An answer with the index of its prompt and the number of its tokens. */
type Answer = [index: number, text: string, newTokens: number];

/**
 * Checks everything that {@link predictDataset} needs. The model's weights need not be allocated.
 *
 * @param firstIndex index of the first of these prompts in the data, for messages
 * @throws TfjsLoraError as {@link predictDataset} does
 */
export async function assertPredictable(
  model: Pick<GenerativeModel, 'config' | 'generationConfig' | 'tokenizer'>,
  prompts: readonly PromptExample[],
  options: PredictOptions = {},
  firstIndex = 0,
): Promise<void> {
  const {batchSize = 8, skipSpecialTokens, outputDir, onProgress, signal, ...generation} = options;
  if (!Number.isInteger(batchSize) || batchSize < 1) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `predictDataset batchSize: expected a whole number of 1 or more, got ${show(batchSize)}`,
    );
  }
  if (prompts.length === 0) {
    throw new TfjsLoraError('INVALID_ARGUMENT', 'predictDataset: expected at least one prompt, got none');
  }
  const {vocabSize, maxPositionEmbeddings} = model.config;
  const {maxLength = Number.POSITIVE_INFINITY} = resolveGenerationConfig(
    model.generationConfig ?? {},
    generation,
  );
  const longest = Math.min(maxLength, maxPositionEmbeddings);
  for (const [index, {promptIds}] of prompts.entries()) {
    if (promptIds.length === 0 || promptIds.length >= longest) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `prompt ${firstIndex + index}: expected 1 to ${longest - 1} tokens, so that there is room for an answer, got ${promptIds.length}. ` +
          'Shorten it (cutoff_len in a recipe), or leave it out.',
      );
    }
    const wrong = promptIds.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
    if (wrong === undefined) continue;
    throw new TfjsLoraError(
      'VOCABULARY_MISMATCH',
      `prompt ${firstIndex + index}: expected ids from 0 to ${vocabSize - 1}, got ${wrong}. ` +
        'Use the tokenizer that belongs to the model.',
    );
  }
  requireTokenizer(model);
  await jiebaWords(prompts.map(({label}) => label)); // reports a missing dictionary before the work
}

function requireTokenizer({tokenizer}: Pick<GenerativeModel, 'tokenizer'>): Tokenizer {
  if (tokenizer) return tokenizer;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    'predictDataset: expected a model with a tokenizer, got one without. Load a folder that has tokenizer.json, ' +
      'or set model.tokenizer.',
  );
}

/** Wraps a model to record peak memory after each forward pass, when the cache is largest. */
function measureMemory(model: GenerativeModel): {model: GenerativeModel; peakBytes(): number} {
  let peak = tf.memory().numBytes;
  return {
    peakBytes: () => peak,
    model: {
      config: model.config,
      tokenizer: model.tokenizer,
      generationConfig: model.generationConfig,
      rotary: model.rotary,
      newCache: () => model.newCache(),
      logitsOf: (hidden) => model.logitsOf(hidden),
      forward(inputIds, options) {
        const hidden = model.forward(inputIds, options);
        peak = Math.max(peak, tf.memory().numBytes);
        return hidden;
      },
    },
  };
}

/** Returns the speed under transformers' names, rounded as there. */
function speedMetrics(seconds: number, samples: number, steps: number): Record<string, number> {
  const rounded = (value: number, places: number) => Number(value.toFixed(places));
  return {
    predict_runtime: rounded(seconds, 4),
    predict_samples_per_second: rounded(samples / seconds, 3),
    predict_steps_per_second: rounded(steps / seconds, 3),
  };
}

/** Writes `generated_predictions.jsonl` as LLaMA-Factory does. */
async function writePredictions(folder: RunFolder, predictions: readonly Prediction[]): Promise<void> {
  const lines = predictions.map(({prompt, predict, label}) => {
    // Python's json.dumps puts a space after commas and colons.
    const [first, second, third] = [prompt, predict, label].map((text) => JSON.stringify(text));
    return `{"prompt": ${first}, "predict": ${second}, "label": ${third}}\n`;
  });
  await folder.write('generated_predictions.jsonl', lines.join(''));
}
