import {TfjsLoraError} from '../../../quant/errors.ts';
import type {TrainingCallback} from '../run/callbacks.ts';
import type {TrainingRun} from '../run/trainingRun.ts';

/** Ends a run with an error after `maxNonFiniteSteps` consecutive skipped steps; what was saved before stays. */
export function nonFiniteSteps(run: TrainingRun): TrainingCallback {
  return {
    onStepEnd: ({step, loss, gradNorm, learningRate, isSkipped}) => {
      const {progress, plan} = run;
      if (!isSkipped || progress.skippedInRow < plan.maxNonFiniteSteps) return;
      throw new TfjsLoraError(
        'NON_FINITE',
        `training step ${step}: expected numbers, got loss ${loss}, gradient norm ${gradNorm} at learning rate ` +
          `${learningRate}, the last of ${progress.skippedInRow} such steps in a row. No checkpoint has been written since the first. ` +
          'Lower the learning rate, warm it up for longer, set maxGradNorm, compute in float32, and check the data; ' +
          'then resume from the last checkpoint.',
      );
    },
  };
}
