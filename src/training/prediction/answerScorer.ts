import type {GenerativeModel} from '../../../models/generation/generateOptions.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import {isReadOnce} from '../../data/batches/batches.ts';
import type {PromptExample} from '../../data/preprocessing/promptExample.ts';
import {ranks} from '../cluster/ranks.ts';
import {assertPredictable, PREDICT_OPTIONS, type PredictOptions, predictDataset} from './predictDataset.ts';
import {flatScores, SCORE_NAMES} from './predictionScores.ts';
import {type PredictionData, readPrompts} from './readPrompts.ts';

/** Computes a score from all answers and the expected answers, in the same order. */
export type AnswerMetric = (
  predictions: readonly string[],
  references: readonly string[],
) => number | Promise<number>;

/** Settings of the answers that are scored while training. */
export interface AnswerOptions extends Omit<PredictOptions, 'outputDir' | 'onProgress' | 'signal'> {
  /** Prompts to answer. Default: those of the validation data. */
  prompts?: PredictionData;
  /** Number of prompts, from the first, that an evaluation answers. Default: all. */
  samples?: number;
}
const {outputDir, onProgress, signal, ...SETTINGS} = PREDICT_OPTIONS;
const ANSWER_OPTIONS = {...SETTINGS, prompts: true, samples: true} satisfies OptionNames<AnswerOptions>;

/** Names that an evaluation already has in logs. */
const TAKEN = [...SCORE_NAMES, 'loss', 'perplexity', 'runtime', 'samples_per_second', 'steps_per_second'];

/** Answers the same prompts at each evaluation of a run, and scores the answers. */
export class AnswerScorer {
  private constructor(
    private readonly model: GenerativeModel,
    private readonly prompts: readonly PromptExample[],
    private readonly options: PredictOptions,
    private readonly metrics: Readonly<Record<string, AnswerMetric>>,
  ) {}

  /** Names of the scores. */
  static namesOf(metrics: Readonly<Record<string, AnswerMetric>> = {}): string[] {
    return [...SCORE_NAMES, ...Object.keys(metrics)];
  }

  /**
   * Reads the prompts and checks everything before a run begins.
   *
   * @param data validation data, whose prompts are answered by default
   * @throws TfjsLoraError as `predictDataset` does; `INVALID_ARGUMENT` for a metric that is no function or has a name
   *   that is taken, and for data that can be read only once; `UNSUPPORTED` for a model that cannot generate
   */
  static async open(
    model: Partial<GenerativeModel>,
    data: PredictionData,
    {prompts: own, samples = Number.POSITIVE_INFINITY, ...options}: AnswerOptions,
    metrics: Readonly<Record<string, AnswerMetric>> = {},
  ): Promise<AnswerScorer> {
    assertMetrics(metrics);
    if (typeof model.newCache !== 'function' || !model.tokenizer) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `fitDataset predictWithGenerate: expected a model that generates text, got one without ${
          model.tokenizer ? 'newCache' : 'a tokenizer'
        }`,
      );
    }
    const source = own ?? data;
    if (isReadOnce(source)) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        'fitDataset predictWithGenerate: expected validationData that can be read more than once, got a generator. ' +
          'Pass a list, or the function that returns the generator.',
      );
    }
    const prompts: PromptExample[] = [];
    let eosTokenId: number[] | undefined;
    for await (const group of readPrompts(source, Math.min(samples, 64), model.tokenizer)) {
      prompts.push(...group.prompts);
      eosTokenId = group.stopIds ?? eosTokenId;
      if (prompts.length >= samples) break;
    }
    const answered = prompts.slice(0, samples);
    const settings = {eosTokenId, ...options};
    await assertPredictable(model as GenerativeModel, answered, settings);
    return new AnswerScorer(model as GenerativeModel, answered, settings, metrics);
  }

  /** Number of prompts that an evaluation answers. */
  get count(): number {
    return this.prompts.length;
  }

  /**
   * Answers the prompts and scores the answers. With several ranks, each answers its share, and the first one scores.
   *
   * @returns the scores, by their names in logs
   * @throws TfjsLoraError `INVALID_ARGUMENT` when a metric returns something else than a number; the signal's reason
   */
  async score(watch: Pick<PredictOptions, 'signal' | 'onProgress'> = {}): Promise<Record<string, number>> {
    const {predictions, scores} = await predictDataset(this.model, this.prompts, {...this.options, ...watch});
    const [texts, labels] = [predictions.map(({predict}) => predict), predictions.map(({label}) => label)];
    const own: [string, number][] = [];
    if (ranks().isFirst)
      for (const [name, metric] of Object.entries(this.metrics))
        own.push([name, numberOf(name, await metric(texts, labels))]);
    // A metric may not be deterministic, and ranks must agree on the best evaluation.
    const [shared] =
      Object.keys(this.metrics).length > 0 ? await ranks().gather(JSON.stringify(own)) : ['[]'];
    const entries = JSON.parse(shared) as [string, number | null][];
    return {
      ...flatScores(scores),
      ...Object.fromEntries(entries.map(([name, value]) => [name, value ?? Number.NaN])),
    };
  }
}

/**
 * Checks the names of options.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown one
 */
export function assertAnswerOptions(options: AnswerOptions | undefined): void {
  assertKnownOptions('fitDataset generation', options, ANSWER_OPTIONS);
}

function assertMetrics(metrics: Readonly<Record<string, AnswerMetric>>): void {
  for (const [name, metric] of Object.entries(metrics)) {
    const isName = /^[\w.@-]+$/.test(name) && !TAKEN.includes(name);
    if (isName && typeof metric === 'function') continue;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      isName
        ? `fitDataset metrics ${name}: expected a function (predictions, references) => number, got ${show(metric)}`
        : `fitDataset metrics: expected names of letters, digits, and . @ - _ that are not taken, got ${show(name)}. ` +
            `Taken are ${TAKEN.join(', ')}.`,
    );
  }
}

function numberOf(name: string, value: unknown): number {
  if (typeof value === 'number') return value;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `fitDataset metrics ${name}: expected it to return a number, got ${show(value)}`,
  );
}
