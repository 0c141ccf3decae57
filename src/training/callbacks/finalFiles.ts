import type {RunFolder} from '../../../quant/folders/runFolder.ts';
import {
  assertFiniteWeights,
  restoreTrainedWeights,
  saveTrainedWeights,
} from '../checkpoints/trainedWeights.ts';
import {floatingPointOperations, writeTrainerState} from '../checkpoints/trainerState.ts';
import {ranks} from '../cluster/ranks.ts';
import {checkpointFolder} from '../output/checkpointFolder.ts';
import {writeResults} from '../output/resultFiles.ts';
import type {TrainingCallback} from '../run/callbacks.ts';
import type {TrainingRun} from '../run/trainingRun.ts';
import {evaluationMetrics} from './trainingLog.ts';

/**
 * Writes a finished run's files to its folder: the weights (optionally the best ones), the tokenizer,
 * `{train,eval,all}_results.json` and `trainer_state.json`. An interrupted run writes only `trainer_state.json`. With
 * several ranks, the first one writes.
 */
export function finalFiles(run: TrainingRun, outputDir: RunFolder): TrainingCallback {
  const {model} = run;
  return {
    onTrainComplete: async () => {
      const isBest = await loadBest(run, outputDir);
      await assertFiniteWeights(model, `weights in ${outputDir.fullPath}`);
      const metrics = trainingMetrics(run);
      await run.addLog(metrics);
      const evaluation = await run.validate(run, isBest);
      if (run.isStoppedInEvaluation) return; // the run ends once it is evaluated
      if (!ranks().isFirst) return;
      await model.tokenizer?.save(outputDir.target); // before the weights: whoever finds those finds the tokenizer too
      await saveTrainedWeights(model, outputDir);
      const {epoch, tokensSeen} = run.progress;
      const place = {epoch, num_input_tokens_seen: tokensSeen};
      await writeResults(outputDir, 'train', {...place, ...metrics});
      if (evaluation) await writeResults(outputDir, 'eval', {...place, ...evaluationMetrics(evaluation)});
      await writeTrainerState(run, outputDir);
    },
    onTrainEnd: async () => {
      if (run.history.isInterrupted && ranks().isFirst) await writeTrainerState(run, outputDir);
    },
  };
}

/**
 * Loads the best weights.
 *
 * @returns whether the weights now differ from those of the last step
 */
async function loadBest({model, plan, progress}: TrainingRun, outputDir: RunFolder): Promise<boolean> {
  if (!plan.loadBestModelAtEnd || !progress.best || progress.best.step === progress.step) return false;
  await restoreTrainedWeights(model, checkpointFolder(outputDir, progress.best.step));
  return true;
}

/** Returns metrics of the whole run under transformers' names; the speeds are those of this call. */
function trainingMetrics(run: TrainingRun): Record<string, number> {
  const {progress, seconds, examples, firstStep} = run;
  return {
    ...(progress.skippedSteps > 0 && {skipped_steps: progress.skippedSteps}),
    total_flos: floatingPointOperations(run),
    ...(progress.lossSteps > 0 && {train_loss: progress.lossSum / progress.lossSteps}),
    train_runtime: seconds,
    train_samples_per_second: examples / seconds,
    train_steps_per_second: (progress.step - firstStep) / seconds,
  };
}
