import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import {SCORE_NAMES} from '../prediction/predictionScores.ts';
import type {Evaluation} from './callbacks.ts';
import type {FitArgs} from './fitArgs.ts';

/** An evaluation, or what is remembered of one. */
type Measured = Pick<Evaluation, 'loss' | 'metrics'>;

/** Numbers that are better when they are smaller. */
const LOSSES = ['loss', 'perplexity'];

/** The number of an evaluation that decides which evaluation is the best. */
export class BestMetric {
  constructor(
    readonly name = 'loss',
    private readonly isGreaterBetter = false,
  ) {}

  /**
   * Finds the metric that `metricForBestModel` names, with or without transformers' prefix `eval_` or `predict_`.
   *
   * @param metrics names of an evaluation's numbers besides loss and perplexity
   * @throws TfjsLoraError `INVALID_ARGUMENT` for a name that evaluations do not have
   */
  static of(
    {metricForBestModel: given = 'loss', greaterIsBetter}: FitArgs,
    metrics: readonly string[],
  ): BestMetric {
    const known = [...LOSSES, ...metrics];
    const name = known.includes(given) ? given : withoutPrefix(given);
    if (known.includes(name)) return new BestMetric(name, greaterIsBetter ?? !LOSSES.includes(name));
    const advice = SCORE_NAMES.includes(name) ? ' Set predictWithGenerate: true, which measures it.' : '';
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `fitDataset metricForBestModel: expected ${known.join(', ')}, got ${show(given)}.${advice}`,
    );
  }

  /** Returns the metric's value; NaN if it was not measured. */
  valueOf({loss, metrics}: Measured): number {
    if (this.name === 'loss') return loss;
    return this.name === 'perplexity' ? Math.exp(loss) : (metrics?.[this.name] ?? Number.NaN);
  }

  /** Whether a value is better than another one, or than none. NaN is never better. */
  isBetter(value: number, than = Number.NaN): boolean {
    if (Number.isNaN(value) || Number.isNaN(than)) return !Number.isNaN(value);
    return this.isGreaterBetter ? value > than : value < than;
  }
}

/** Removes transformers' prefix from the name of a metric. */
export const withoutPrefix = (name: string): string => name.replace(/^(eval|predict)_/, '');
