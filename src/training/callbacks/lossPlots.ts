import {join} from 'node:path';
import type {RunFolder} from '../../../quant/folders/runFolder.ts';
import {type LossPoint, plotLoss} from '../plots/lossPlot.ts';
import type {TrainingCallback} from '../run/callbacks.ts';
import type {TrainingRun} from '../run/trainingRun.ts';

/** Scores that are logged and not drawn: the standard ones beside LLaMA-Factory's of the same kind. */
const STANDARD_SCORE = /^(rouge_score_|sacrebleu$)/;

/**
 * Draws a finished run's `training_loss` and, if the log has them, `training_eval_loss`, `training_rewards_accuracies`,
 * `training_rewards_chosen` (KTO), `training_accuracy`, `training_eval_accuracy` and the scores of the answers (`training_eval_rouge-l` …), as PNG and SVG.
 */
export function lossPlots(run: TrainingRun, outputDir: RunFolder): TrainingCallback {
  return {
    onTrainComplete: async () => {
      if (run.isStoppedInEvaluation) return; // the run ends once it is evaluated
      const scores = run.scoreNames.filter((name) => !STANDARD_SCORE.test(name));
      for (const [key, name, valueLabel] of [
        ['loss', 'training loss'],
        ['eval_loss', 'validation loss'],
        ['rewards/accuracies', 'accuracy of rewards', 'accuracy'],
        ['reward', 'mean reward', 'reward'],
        ...(run.trainer.loss.exampleKind === 'verdict'
          ? [['rewards/chosen', 'reward of desirable answers', 'reward']]
          : []),
        ['accuracy', 'accuracy of scores', 'accuracy'],
        ['eval_accuracy', 'validation accuracy of scores', 'accuracy'],
        ...scores.map((score) => [`eval_${score}`, `validation ${score}`, score]),
      ]) {
        const points = run.log.filter((entry) => Number.isFinite(entry[key]));
        if (points.length === 0) continue;
        const training: LossPoint[] = points.map((entry) => ({step: entry.step, loss: entry[key]}));
        const options = {title: `${name} of ${outputDir.name}`, rawLabel: 'as logged', valueLabel};
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
