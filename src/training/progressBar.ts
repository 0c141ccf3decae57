import cliProgress from 'cli-progress';
import type {StepRecord, TrainingCallback} from './callbacks.ts';

/** Where progress is written: a terminal is redrawn, anything else gets a line now and then. */
export interface ProgressStream {
  write(text: string): unknown;
  isTTY?: boolean;
}

/** Seconds between lines where nothing can be redrawn. */
const LINE_SECONDS = 5;

/**
 * A callback that shows loss, learning rate, tokens per second and the time left.
 *
 * @param stream such as `process.stderr`
 */
export function progressBar(stream: ProgressStream): TrainingCallback {
  return stream.isTTY ? redrawn(stream as NodeJS.WriteStream) : byLines(stream);
}

function redrawn(stream: NodeJS.WriteStream): TrainingCallback {
  const bar = new cliProgress.SingleBar(
    {format: '{bar} {value}/{total} {details}', stream, hideCursor: true, linewrap: false, barsize: 24},
    cliProgress.Presets.shades_classic,
  );
  return {
    onTrainBegin: ({totalSteps}) => bar.start(totalSteps ?? 0, 0, {details: ''}),
    onStepEnd: (record) => {
      if (record.totalSteps === undefined) bar.setTotal(record.step);
      bar.update(record.step, {details: describe(record)});
    },
    onTrainEnd: () => bar.stop(),
  };
}

function byLines(stream: ProgressStream): TrainingCallback {
  let lastSeconds = Number.NEGATIVE_INFINITY;
  return {
    onStepEnd: (record) => {
      const isLast = record.step === record.totalSteps;
      if (!isLast && record.seconds - lastSeconds < LINE_SECONDS) return;
      lastSeconds = record.seconds;
      stream.write(`step ${record.step}${record.totalSteps ? `/${record.totalSteps}` : ''} ${describe(record)}\n`);
    },
    onEvaluate: ({loss, perplexity}, step) => {
      stream.write(`step ${step} validation loss ${loss.toFixed(4)} perplexity ${perplexity.toFixed(2)}\n`);
    },
  };
}

function describe({loss, learningRate, tokensPerSecond, seconds, step, totalSteps}: StepRecord): string {
  const left = totalSteps === undefined ? '' : ` eta ${formatSeconds((seconds / step) * (totalSteps - step))}`;
  const rate = learningRate.toExponential(2);
  return `loss ${loss.toFixed(4)} lr ${rate} ${Math.round(tokensPerSecond)} tok/s ${formatSeconds(seconds)}${left}`;
}

function formatSeconds(seconds: number): string {
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole}s` : `${Math.floor(whole / 60)}m${String(whole % 60).padStart(2, '0')}s`;
}
