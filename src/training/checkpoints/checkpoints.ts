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
  return {
    onTrainBegin: () => {
      savedStep = run.firstStep;
    },
    onStepComplete: async (step) => {
      if (run.isInterrupted || (plan.saveStrategy === 'steps' && step % plan.saveSteps === 0)) await save();
    },
    onEpochEnd: async () => {
      if (plan.saveStrategy === 'epoch') await save();
    },
    onTrainComplete: async () => {
      if (plan.saveStrategy === 'steps') await save();
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

/** Remembers the best evaluation: the one with the lowest loss right before a checkpoint. */
function rememberBest({progress}: TrainingRun): void {
  const {evaluation, step, best} = progress;
  if (evaluation?.step === step && !(evaluation.loss >= (best?.loss ?? Number.POSITIVE_INFINITY)))
    progress.best = {step, loss: evaluation.loss};
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
