import type {RunFolder} from '../../../quant/folders/runFolder.ts';
import {LinesFile} from '../output/linesFile.ts';
import type {LogEntry, TrainingCallback} from '../run/callbacks.ts';
import type {TrainingRun} from '../run/trainingRun.ts';

/**
 * Writes LLaMA-Factory's `trainer_log.jsonl`: a line for each line of the log, and a last one without a loss. A resumed
 * run continues the file.
 */
export function trainerLogFile(run: TrainingRun, outputDir: RunFolder): TrainingCallback {
  const file = new LinesFile(outputDir, 'trainer_log.jsonl');
  return {
    onTrainBegin: () => file.open(run.log.length),
    onLog: (entry) => file.append(JSON.stringify(lineOf(run, entry))),
  };
}

function lineOf(run: TrainingRun, entry: LogEntry) {
  const {step, epoch, loss, eval_loss, learning_rate} = entry;
  const {totalSteps, seconds, secondsLeft, progress, firstTokens, scoreNames} = run;
  return {
    current_steps: step,
    total_steps: totalSteps,
    loss,
    eval_loss,
    ...Object.fromEntries(scoreNames.map((name) => [`eval_${name}`, entry[`eval_${name}`]])),
    accuracy: entry['rewards/accuracies'],
    lr: loss === undefined ? undefined : learning_rate,
    epoch,
    percentage: totalSteps && Math.round((step / totalSteps) * 10_000) / 100,
    elapsed_time: clock(seconds),
    remaining_time: secondsLeft === undefined ? undefined : clock(secondsLeft),
    throughput: Math.round((100 * (progress.tokensSeen - firstTokens)) / seconds) / 100,
    total_tokens: progress.tokensSeen,
  };
}

/** Formats seconds as Python prints a `timedelta` of whole seconds: `1 day, 2:03:04`. */
export function clock(seconds: number): string {
  const whole = Math.floor(seconds);
  const days = Math.floor(whole / 86_400);
  const two = (value: number) => String(value % 60).padStart(2, '0');
  const time = `${Math.floor(whole / 3600) % 24}:${two(Math.floor(whole / 60))}:${two(whole)}`;
  return days === 0 ? time : `${days} day${days === 1 ? '' : 's'}, ${time}`;
}
