import {checkpoints} from '../checkpoints/checkpoints.ts';
import {ranks} from '../cluster/ranks.ts';
import type {TrainingCallback} from '../run/callbacks.ts';
import type {TrainingRun} from '../run/trainingRun.ts';
import {csvLog} from './csvLog.ts';
import {earlyStopping} from './earlyStopping.ts';
import {finalFiles} from './finalFiles.ts';
import {lossPlots} from './lossPlots.ts';
import {nonFiniteSteps} from './nonFiniteSteps.ts';
import {defaultProgressStream, progressBar} from './progressBar.ts';
import {rankAgreement} from './rankAgreement.ts';
import {tensorBoardLog} from './tensorBoard/tensorBoardLog.ts';
import {trainerLogFile} from './trainerLogFile.ts';
import {trainingLog} from './trainingLog.ts';

/**
 * Returns the callbacks that a run's settings enable: those that run before the user's, and those that save. The latter
 * run after the user's, so that a checkpoint has the state of the user's callbacks.
 */
export function trainingFeatures(run: TrainingRun): {before: TrainingCallback[]; after: TrainingCallback[]} {
  const {plan} = run;
  const {outputDir, verbose, progressStream = defaultProgressStream()} = plan;
  const {isFirst, size} = ranks();
  const before = [trainingLog(run), nonFiniteSteps(run)];
  const after: TrainingCallback[] = [];
  if (size > 1) before.push(rankAgreement(run));
  if (verbose > 0 && progressStream && isFirst) before.unshift(progressBar(progressStream));
  if (plan.earlyStoppingPatience !== undefined)
    before.push(earlyStopping(run, plan.earlyStoppingPatience, plan.earlyStoppingThreshold));
  if (outputDir !== undefined) {
    if (isFirst) {
      before.push(trainerLogFile(run, outputDir));
      if (plan.reportTo.includes('csv')) before.push(csvLog(run, outputDir));
      if (plan.reportTo.includes('tensorboard')) before.push(tensorBoardLog(run, outputDir));
    }
    after.push(checkpoints(run, outputDir), finalFiles(run, outputDir));
    if (plan.plotLoss && isFirst) after.push(lossPlots(run, outputDir));
  }
  return {before, after};
}
