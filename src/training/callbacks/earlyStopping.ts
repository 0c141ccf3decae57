import type {TrainingCallback} from '../run/callbacks.ts';
import type {TrainingRun} from '../run/trainingRun.ts';

/**
 * Ends training after `patience` consecutive evaluations whose loss was not at least `threshold` below the lowest so
 * far, like transformers' `EarlyStoppingCallback`.
 */
export function earlyStopping({model}: TrainingRun, patience: number, threshold = 0): TrainingCallback {
  let best = Number.POSITIVE_INFINITY;
  let waited = 0;
  return {
    stateName: 'EarlyStoppingCallback',
    getState: () => ({
      args: {early_stopping_patience: patience, early_stopping_threshold: threshold},
      attributes: {early_stopping_patience_counter: waited, best: Number.isFinite(best) ? best : null},
    }),
    setState: ({attributes}) => {
      const {early_stopping_patience_counter, best: before} = attributes as Record<string, number | null>;
      waited = early_stopping_patience_counter ?? 0;
      best = before ?? Number.POSITIVE_INFINITY;
    },
    onEvaluate: ({loss}) => {
      waited = loss < best && best - loss > threshold ? 0 : waited + 1;
      if (loss < best) best = loss;
      if (waited >= patience) model.stopTraining = true;
    },
  };
}
