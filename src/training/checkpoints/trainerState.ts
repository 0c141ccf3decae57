import {readJsonOf} from '../../../models/jsonFile.ts';
import type {RunFolder} from '../../../quant/folders/runFolder.ts';
import {checkpointFolder} from '../output/checkpointFolder.ts';
import {openRunFolder} from '../output/diskRunFolder.ts';
import type {LogEntry} from '../run/callbacks.ts';
import type {TrainingRun} from '../run/trainingRun.ts';

const FILE = 'trainer_state.json';

/** Writes `trainer_state.json` with transformers' keys. */
export async function writeTrainerState(run: TrainingRun, folder: RunFolder): Promise<void> {
  const {plan, progress, log, totalSteps, callbacks} = run;
  const {outputDir, epochs, maxSteps} = plan;
  const state: Record<string, unknown> = {
    best_global_step: progress.best?.step ?? null,
    best_metric: progress.best ? run.bestMetric.valueOf(progress.best) : null,
    best_model_checkpoint:
      progress.best && outputDir !== undefined
        ? checkpointFolder(openRunFolder(outputDir), progress.best.step).path
        : null,
    epoch: progress.epoch,
    eval_steps: plan.evaluationSteps ?? null,
    global_step: progress.step,
    is_hyper_param_search: false,
    is_local_process_zero: true,
    is_world_process_zero: true,
    log_history: log,
    logging_steps: plan.loggingSteps,
    max_steps: totalSteps ?? maxSteps ?? -1,
    num_input_tokens_seen: progress.tokensSeen,
    num_train_epochs: Number.isFinite(epochs) ? epochs : Math.ceil(progress.epoch),
    save_steps: plan.saveSteps,
    stateful_callbacks: callbacks.states,
    total_flos: floatingPointOperations(run),
    train_batch_size: plan.batchSize,
    trial_name: null,
    trial_params: null,
  };
  await folder.write(FILE, `${JSON.stringify(state, null, 2)}\n`);
}

/** Reads the lines of the log from a folder's `trainer_state.json`. */
export async function readLog(folder: RunFolder): Promise<LogEntry[]> {
  const {log_history} = await readJsonOf(folder, FILE);
  return log_history as LogEntry[];
}

/** Counts operations as transformers does: 6 per position and parameter, without the embedding. */
export function floatingPointOperations({model, progress}: TrainingRun): number {
  const {vocabSize, hiddenSize = 0} = model.config;
  const parameters = model.countParams?.() ?? 0;
  return 6 * progress.tokensSeen * Math.max(0, parameters - vocabSize * hiddenSize);
}
