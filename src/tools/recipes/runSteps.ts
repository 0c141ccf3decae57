import type {Recipe} from './recipe.ts';

/** How many steps a run has, and between its events. */
export interface RunSteps {
  /** Examples, or packed rows. */
  examples?: number;
  /** Undefined where the data is streamed. */
  perEpoch?: number;
  total: number;
  warmup: number;
  logging: number;
  saving: number;
  evaluation: number;
}

/**
 * As transformers counts them: an epoch's last step may have fewer batches; a fraction of an epoch and a share of the
 * run are rounded up.
 *
 * @param examples in the training data; undefined where it is streamed, and the recipe has `max_steps`
 */
export function runSteps({fit, warmup}: Recipe, examples?: number): RunSteps {
  const {batchSize, gradientAccumulationSteps, epochs, maxSteps} = fit;
  const perEpoch =
    examples === undefined
      ? undefined
      : Math.ceil(Math.ceil(examples / batchSize) / gradientAccumulationSteps);
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
