import * as tf from '@tensorflow/tfjs';
import {lastTokens} from '../../../models/lastTokens.ts';
import type {ValueBatch, ValueOptions} from '../../../models/values.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {RunFolder} from '../../../quant/folders/runFolder.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import {assertExample, collate, type Example, isPair, type PairExample} from '../../data/batches/collate.ts';
import {ranks} from '../cluster/ranks.ts';
import {openRunFolder} from '../output/diskRunFolder.ts';
import {writeResults} from '../output/resultFiles.ts';

export interface ScoreOptions {
  /** Answers in a batch. Default 8. */
  batchSize?: number;
  /** Signal to stop: scoring ends after the current batch, with the signal's reason as an error. */
  signal?: AbortSignal;
  /** Called after each batch. */
  onProgress?: (progress: {done: number; total: number}) => void;
}
const SCORE_OPTIONS = {batchSize: true, signal: true, onProgress: true} satisfies OptionNames<ScoreOptions>;

/** The part of a model that scores answers. */
export interface ScoringModel {
  readonly config: {vocabSize: number; maxPositionEmbeddings: number};
  values(batch: ValueBatch, options?: ValueOptions): tf.Tensor;
}

/**
 * Scores answers with a model's value head, at the last token of each. With several ranks, each scores its share of the
 * batches.
 *
 * @returns the scores, in the order of the examples
 * @throws TfjsLoraError before any work, naming the example; `UNSUPPORTED` for a model without a value head
 */
export async function scoreAnswers(
  model: ScoringModel,
  examples: readonly Example[],
  options: ScoreOptions = {},
): Promise<number[]> {
  assertKnownOptions('score', options, SCORE_OPTIONS);
  const {batchSize = 8, onProgress} = options;
  const signal = ranks().agreed(options.signal);
  if (!Number.isInteger(batchSize) || batchSize < 1) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `score batchSize: expected a whole number of 1 or more, got ${show(batchSize)}`,
    );
  }
  assertAnswers(model, examples);
  const order = [...examples.keys()].sort(
    (a, b) => examples[b].inputIds.length - examples[a].inputIds.length,
  );
  const scores = new Array<number>(examples.length);
  const round = batchSize * ranks().size;
  for (let first = 0; first < order.length; first += round) {
    signal?.throwIfAborted();
    const [start = order.length] = ranks().share(
      Array.from({length: ranks().size}, (_, i) => first + i * batchSize),
    );
    const chosen = order.slice(start, start + batchSize); // empty for a rank without a share
    const own = await scoresOf(
      model,
      chosen.map((index) => examples[index]),
    );
    for (const text of await ranks().gather(JSON.stringify(chosen.map((index, i) => [index, own[i]]))))
      for (const [index, score] of JSON.parse(text) as [number, number][]) scores[index] = score;
    onProgress?.({done: Math.min(first + round, order.length), total: order.length});
    await tf.nextFrame(); // let signals through
  }
  return scores;
}

function assertAnswers({config}: ScoringModel, examples: readonly (Example | PairExample)[]): void {
  const limits = {maxLength: config.maxPositionEmbeddings, vocabSize: config.vocabSize};
  for (const [index, example] of examples.entries()) {
    if (isPair(example)) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `score example ${index}: expected a single answer, got a pair. Score its answers one by one, or call ` +
          'evaluateDataset for loss and accuracy.',
      );
    }
    assertExample(example, index, limits);
  }
}

async function scoresOf(model: ScoringModel, examples: Example[]): Promise<number[]> {
  if (examples.length === 0) return [];
  const batch = collate(examples, {maxLength: model.config.maxPositionEmbeddings});
  const scores = model.values(batch, {at: lastTokens(batch)});
  try {
    return [...(await scores.data())];
  } finally {
    scores.dispose();
  }
}

/** Scores of pairs, and how well they tell the answers apart. */
export interface PairScores {
  chosen: number[];
  rejected: number[];
  /** Loss, accuracy and speed under their names in `predict_results.json`. */
  metrics: Record<string, number>;
}

/**
 * Scores both answers of pairs.
 *
 * @param outputDir folder for `generated_predictions.jsonl`, with scores of two decimals as LLaMA-Factory writes them,
 *   and `predict_results.json`. Default: not written
 */
export async function scorePairs(
  model: ScoringModel,
  pairs: readonly PairExample[],
  {outputDir, ...options}: ScoreOptions & {outputDir?: string | RunFolder} = {},
): Promise<PairScores> {
  const begun = performance.now();
  const answers = pairs.flatMap(({chosen, rejected}) => [chosen, rejected]);
  const scores = await scoreAnswers(model, answers, options);
  const seconds = (performance.now() - begun) / 1000;
  const chosen = scores.filter((_, i) => i % 2 === 0);
  const rejected = scores.filter((_, i) => i % 2 === 1);
  const margins = chosen.map((score, i) => score - rejected[i]);
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const metrics = {
    predict_accuracy: mean(margins.map((margin) => Number(margin > 0))),
    predict_loss: mean(
      margins.map((margin) => Math.log1p(Math.exp(-Math.abs(margin))) + Math.max(0, -margin)),
    ),
    predict_runtime: seconds,
    predict_samples_per_second: pairs.length / seconds,
  };
  if (outputDir !== undefined && ranks().isFirst) {
    const lines = chosen.map(
      (score, i) => `{"chosen": ${rounded(score)}, "rejected": ${rounded(rejected[i])}}`,
    );
    const folder = openRunFolder(outputDir);
    await folder.write('generated_predictions.jsonl', lines.join('\n'));
    await writeResults(folder, 'predict', metrics);
  }
  return {chosen, rejected, metrics};
}

/** Writes a number with one or two decimals, as Python's `round` does: halves go to the even digit. */
function rounded(score: number): string {
  const isHalf = Math.abs(score * 8) % 2 === 1; // no other float is one
  const value = isHalf ? (2 * Math.round(score * 50)) / 100 : Number(score.toFixed(2));
  const sign = Object.is(value, -0) ? '-' : '';
  return Number.isInteger(value) ? sign + value.toFixed(1) : `${value}`;
}
