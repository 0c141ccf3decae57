import type {TrainingCallback} from '../run/callbacks.ts';
import type {TrainingRun} from '../run/trainingRun.ts';

/**
 * Ends training after `patience` consecutive evaluations whose metric was not better than the best so far by more than
 * `threshold`, like transformers' `EarlyStoppingCallback`.
 */
export function earlyStopping(
  {model, bestMetric}: Pick<TrainingRun, 'model' | 'bestMetric'>,
  patience: number,
  threshold = 0,
): TrainingCallback {
  const {name} = bestMetric;
  let best: number | undefined;
  let waited = 0;
  return {
    stateName: 'EarlyStoppingCallback',
    getState: () => ({
      args: {early_stopping_patience: patience, early_stopping_threshold: threshold},
      attributes: {
        early_stopping_patience_counter: waited,
        best: best ?? null,
        ...(name !== 'loss' && {metric: name}),
      },
    }),
    setState: ({attributes}) => {
      const state = attributes as {
        early_stopping_patience_counter: number;
        best: number | null;
        metric?: string;
      };
      waited = state.early_stopping_patience_counter;
      best = (state.metric ?? 'loss') === name ? (state.best ?? undefined) : undefined;
    },
    onEvaluate: (evaluation) => {
      const value = bestMetric.valueOf(evaluation);
      const isBetter = bestMetric.isBetter(value, best);
      waited = isBetter && (best === undefined || Math.abs(value - best) > threshold) ? 0 : waited + 1;
      if (isBetter) best = value;
      if (waited >= patience) model.stopTraining = true;
    },
  };
}
