import {TfjsLoraError} from '../../../quant/errors.ts';
import type {RunFolder} from '../../../quant/folders/runFolder.ts';
import {warn} from '../../../quant/warn.ts';
import {ranks} from '../cluster/ranks.ts';
import {saveOptimizer} from '../optimizers/optimizerFile.ts';
import {rotateCheckpoints, writeCheckpoint} from '../output/checkpointFolder.ts';
import type {TrainingCallback} from '../run/callbacks.ts';
import type {TrainingRun} from '../run/trainingRun.ts';
import {OPTIMIZER_FILE, resumeStateOf} from './resume.ts';
import {assertFiniteWeights, saveTrainedWeights} from './trainedWeights.ts';
import {writeTrainerState} from './trainerState.ts';

/**
 * Writes `checkpoint-<step>` folders as `saveStrategy` says, also after the last step when it is `steps`, and whenever
 * a run is interrupted. A checkpoint has the trained weights, optimizer, `trainer_state.json`, and the state for an
 * exact resumption. With several ranks, the first one writes it.
 */
export function checkpoints(run: TrainingRun, outputDir: RunFolder): TrainingCallback {
  const {plan} = run;
  let savedStep = run.firstStep;
  const save = async () => {
    const {progress} = run;
    if (progress.step === savedStep || progress.step === 0) return;
    if (progress.skippedInRow > 0) {
      warn(`checkpoint ${progress.step} was not written: the step before it was not finite`);
      return;
    }
    try {
      await assertFiniteWeights(run.model, `checkpoint ${progress.step}`);
    } catch (error) {
      if (!(error instanceof TfjsLoraError)) throw error;
      warn(error.message);
      return;
    }
    rememberBest(run);
    const folder = ranks().isFirst
      ? await writeCheckpoint(outputDir, progress.step, (staged) => fill(run, staged), resumeStateOf(run))
      : undefined;
    savedStep = progress.step;
    if (folder === undefined) return;
    const {saveTotalLimit} = plan;
    const kept = progress.best && plan.loadBestModelAtEnd ? [progress.best.step] : [];
    if (saveTotalLimit !== undefined) await rotateCheckpoints(outputDir, saveTotalLimit, kept);
    await run.callbacks.emit('onSave', folder.path, progress.step);
  };
  const savesBest = () => plan.saveStrategy === 'best' && isBest(run);
  return {
    onTrainBegin: () => {
      savedStep = run.firstStep;
    },
    onStepComplete: async (step) => {
      const isDue = plan.saveStrategy === 'steps' && step % plan.saveSteps === 0;
      if (run.isInterrupted || isDue || savesBest()) await save();
    },
    onEpochEnd: async () => {
      if (plan.saveStrategy === 'epoch' || savesBest()) await save();
    },
    onTrainComplete: async () => {
      if (plan.saveStrategy === 'steps' || savesBest()) await save();
    },
    onEvaluate: () => {
      // The evaluation that a stop prevented before the checkpoint was saved.
      if (run.progress.step === run.firstStep && savedStep === run.firstStep) rememberBest(run);
    },
    onTrainEnd: async () => {
      if (run.history.isInterrupted) await save(); // stopped after a step, during an evaluation
    },
  };
}

async function fill(run: TrainingRun, folder: RunFolder): Promise<void> {
  await saveTrainedWeights(run.model, folder);
  await saveOptimizer(run.trainer.optimizer, OPTIMIZER_FILE, folder);
  await writeTrainerState(run, folder);
}

/** Whether the run was evaluated after this very step, better than before any checkpoint. */
function isBest({progress, bestMetric}: TrainingRun): boolean {
  const {evaluation, step, best} = progress;
  if (evaluation?.step !== step) return false;
  return bestMetric.isBetter(bestMetric.valueOf(evaluation), best && bestMetric.valueOf(best));
}

/** Remembers the best evaluation right before a checkpoint. */
function rememberBest(run: TrainingRun): void {
  if (!isBest(run)) return;
  const {loss, metrics} = run.progress.evaluation!;
  run.progress.best = {step: run.progress.step, loss, ...(metrics && {metrics})};
}

/**
 * Checks that checkpoints can be written.
 *
 * @throws TfjsLoraError `UNSUPPORTED` when they cannot: TensorFlow.js's Adamax does not expose its state
 */
export async function assertSavable({plan, trainer: {optimizer}}: TrainingRun): Promise<void> {
  if (plan.saveStrategy === 'no' && !plan.signal) return;
  try {
    const [count] = await optimizer.getWeights();
    count?.tensor.dispose();
  } catch (cause) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `fitDataset outputDir: expected an optimizer whose state can be saved, got ${optimizer.getClassName()}: ` +
        `${(cause as Error).message} Use another, or saveStrategy: 'no'.`,
      {cause},
    );
  }
}
