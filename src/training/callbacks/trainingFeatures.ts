import {checkpoints} from '../checkpoints/checkpoints.ts';
import {ranks} from '../cluster/ranks.ts';
import {isInNotebook} from '../notebook/notebookDisplay.ts';
import {notebookProgress} from '../notebook/notebookProgress.ts';
import {openRunFolder} from '../output/diskRunFolder.ts';
import type {TrainingCallback} from '../run/callbacks.ts';
import type {FitPlan, ProgressStream} from '../run/fitArgs.ts';
import type {TrainingRun} from '../run/trainingRun.ts';
import {csvLog} from './csvLog.ts';
import {earlyStopping} from './earlyStopping.ts';
import {finalFiles} from './finalFiles.ts';
import {lossPlots} from './lossPlots.ts';
import {nonFiniteSteps} from './nonFiniteSteps.ts';
import {defaultProgressStream, progressBar, tokenizingLines} from './progressBar.ts';
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
  const {verbose, progressStream} = plan;
  const {isFirst, size} = ranks();
  const before = [trainingLog(run), nonFiniteSteps(run)];
  const after: TrainingCallback[] = [];
  const {rollouts} = run.trainer.loss;
  if (rollouts?.getState) {
    const {getState, setState} = rollouts;
    before.push({
      stateName: 'rollouts',
      getState: () => getState.call(rollouts),
      setState: (state) => setState?.call(rollouts, state),
    });
  }
  if (size > 1) before.push(rankAgreement(run));
  if (verbose > 0 && isFirst) before.unshift(...progressOn(progressStream));
  if (plan.earlyStoppingPatience !== undefined)
    before.push(earlyStopping(run, plan.earlyStoppingPatience, plan.earlyStoppingThreshold));
  if (plan.outputDir !== undefined) {
    const outputDir = openRunFolder(plan.outputDir);
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

/** Returns a function that shows how many records have become token ids; undefined if nothing is shown. */
export function tokenizingProgress({verbose, progressStream}: Pick<FitPlan, 'verbose' | 'progressStream'>) {
  const stream = progressStream ?? (isInNotebook() ? undefined : defaultProgressStream());
  return verbose > 0 && ranks().isFirst && stream ? tokenizingLines(stream) : undefined;
}

/** Returns what shows progress, if anything can: below the cell of a notebook, or on standard error. */
function progressOn(stream?: ProgressStream): TrainingCallback[] {
  if (!stream && isInNotebook()) return [notebookProgress()];
  const target = stream ?? defaultProgressStream();
  return target ? [progressBar(target)] : [];
}
