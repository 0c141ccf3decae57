import {ranks} from '../../training/cluster/ranks.ts';
import type {Recipe} from './recipe.ts';

/** The number of steps in a run, and between its events. */
export interface RunSteps {
  /** Number of examples, or of packed rows; undefined if the data is streamed. */
  examples?: number;
  /** Steps in an epoch; undefined if the data is streamed. */
  perEpoch?: number;
  total: number;
  warmup: number;
  logging: number;
  saving: number;
  evaluation: number;
}

/**
 * Counts the steps of a run as transformers does: an epoch's last step may have fewer batches, and fractions of an
 * epoch and shares of the run are rounded up.
 *
 * @param examples number of training examples; undefined if they are streamed, and the recipe then has `max_steps`
 */
export function runSteps({data, fit, warmup, ppo}: Recipe, examples?: number): RunSteps {
  const {batchSize, gradientAccumulationSteps, epochs, maxSteps} = fit;
  const windows = data.stage === 'ppo' ? ppo.bufferSize : 1; // in a step
  const perEpoch =
    examples === undefined
      ? undefined
      : Math.ceil(Math.ceil(examples / batchSize) / (gradientAccumulationSteps * ranks().size * windows));
  const total = maxSteps ?? Math.ceil(epochs * (perEpoch as number));
  const stepsOf = (interval: number) => (interval < 1 ? Math.ceil(total * interval) : interval);
  return {
    examples,
    perEpoch,
    total,
    warmup: warmup.steps > 0 ? stepsOf(warmup.steps) : Math.ceil(total * warmup.ratio),
    logging: stepsOf(fit.loggingSteps),
    saving: stepsOf(fit.saveSteps),
    evaluation: stepsOf(fit.evaluationSteps),
  };
}
