import {join} from 'node:path';
import type {RunFolder} from '../../../quant/folders/runFolder.ts';
import {type LossPoint, plotLoss} from '../plots/lossPlot.ts';
import type {TrainingCallback} from '../run/callbacks.ts';
import type {TrainingRun} from '../run/trainingRun.ts';

/**
 * Draws a finished run's `training_loss` and, if the log has them, `training_eval_loss` and
 * `training_rewards_accuracies`, as PNG and SVG.
 */
export function lossPlots(run: TrainingRun, outputDir: RunFolder): TrainingCallback {
  return {
    onTrainComplete: async () => {
      if (run.isStoppedInEvaluation) return; // the run ends once it is evaluated
      for (const [key, name] of [
        ['loss', 'training loss'],
        ['eval_loss', 'validation loss'],
        ['rewards/accuracies', 'accuracy of rewards'],
      ]) {
        const points = run.log.filter((entry) => Number.isFinite(entry[key]));
        if (points.length === 0) continue;
        const training: LossPoint[] = points.map((entry) => ({step: entry.step, loss: entry[key]}));
        const options = {title: `${name} of ${outputDir.name}`, rawLabel: 'as logged'};
        for (const kind of ['png', 'svg'])
          await plotLoss(
            {training},
            join(outputDir.path, `training_${key.replace('/', '_')}.${kind}`),
            options,
          );
      }
    },
  };
}
