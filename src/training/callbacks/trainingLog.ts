import {metricsOf} from '../losses/trainingLoss.ts';
import type {Evaluation, TrainingCallback} from '../run/callbacks.ts';
import type {TrainingRun} from '../run/trainingRun.ts';

/**
 * Writes the lines of the log: mean loss since the last line, gradient norm and learning rate as often as
 * `loggingStrategy` says, and each evaluation.
 */
export function trainingLog(run: TrainingRun): TrainingCallback {
  const {plan} = run;
  let latest: Record<string, number> = {};
  const write = async () => {
    const {progress} = run;
    const {pendingSteps, pendingLossSum, pendingMeasured, skippedSteps} = progress;
    progress.pendingSteps = 0;
    progress.pendingLossSum = 0;
    delete progress.pendingMeasured;
    await run.addLog({
      ...(pendingSteps > 0 && {loss: pendingLossSum / pendingSteps}),
      ...finite(metricsOf(run.trainer.loss, pendingMeasured) ?? {}),
      ...latest,
      ...(skippedSteps > 0 && {skipped_steps: skippedSteps}),
      train_runtime: run.seconds,
      train_tokens_per_second: (progress.tokensSeen - run.firstTokens) / run.seconds,
    });
  };
  return {
    onStepEnd: async ({step, gradNorm, learningRate, isSkipped}) => {
      latest = finite({grad_norm: isSkipped ? Number.NaN : gradNorm, learning_rate: learningRate});
      if (plan.loggingStrategy === 'steps' && step % plan.loggingSteps === 0) await write();
    },
    onEvaluate: (evaluation) => run.addLog(evaluationMetrics(evaluation)),
    onEpochEnd: async () => {
      if (plan.loggingStrategy === 'epoch') await write();
    },
  };
}

/** Returns an evaluation under transformers' names. */
export function evaluationMetrics(evaluation: Evaluation): Record<string, number> {
  const {loss, perplexity, metrics = {}, examples, batches, seconds} = evaluation;
  return finite({
    eval_loss: loss,
    eval_perplexity: perplexity,
    ...Object.fromEntries(Object.entries(metrics).map(([name, value]) => [`eval_${name}`, value])),
    eval_runtime: seconds,
    eval_samples_per_second: examples / seconds,
    eval_steps_per_second: batches / seconds,
  });
}

/** Keeps the finite numbers; JSON has no word for the others. */
function finite(numbers: Record<string, number>): Record<string, number> {
  return Object.fromEntries(Object.entries(numbers).filter(([, value]) => Number.isFinite(value)));
}
