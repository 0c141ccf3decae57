import cliProgress from 'cli-progress';
import type {StepLog, TrainingCallback} from '../run/callbacks.ts';
import {describeAnswering, describeCompiling, describeStep, scoresOf} from '../run/describeStep.ts';
import type {ProgressStream} from '../run/fitArgs.ts';

/** Seconds between lines on a stream that cannot be redrawn. */
const LINE_SECONDS = 5;

/**
 * Returns the default stream for the progress of `fitDataset`: standard error, which a pipe does not swallow. There is
 * none in a browser: pass `progressStream` there.
 */
export function defaultProgressStream(): ProgressStream | undefined {
  return (globalThis as {process?: {stderr?: ProgressStream}}).process?.stderr;
}

/**
 * Makes a callback that shows loss, learning rate, tokens per second, time left and memory.
 *
 * @param stream for example `process.stderr`
 */
export function progressBar(stream: ProgressStream): TrainingCallback {
  return stream.isTTY ? redrawn(stream as NodeJS.WriteStream) : byLines(stream);
}

/** Bars on terminals now, each with a function that draws it on the cursor's line. */
const drawn = new Map<ProgressStream, () => void>();

const CLEAR_LINE = '\r\x1b[K';
const SAVE_CURSOR = '\x1b7'; // the bar returns here when it stops

/** Writes a line to a stream that may show progress: the line replaces the progress, which is drawn again below it. */
export function printAboveProgress(stream: ProgressStream, line: string): void {
  stream.write(stream.isTTY ? `${CLEAR_LINE}${line}\n` : `${line}\n`);
  drawn.get(stream)?.();
}

/** Records between lines that say how many have become token ids. */
const RECORDS_PER_LINE = 10_000;

/** Returns a function that reports how many records have become token ids, which a step waits for. */
export function tokenizingLines(stream: ProgressStream): (progress: {done: number; total?: number}) => void {
  return ({done, total}) => {
    if (done > 0 && done % RECORDS_PER_LINE === 0)
      printAboveProgress(stream, `tokenizing records ${done}${total === undefined ? '' : `/${total}`}`);
  };
}

function redrawn(stream: NodeJS.WriteStream): TrainingCallback {
  const bar = new cliProgress.SingleBar(
    {
      format: '{bar} {value}/{total} {details}',
      stream,
      linewrap: false,
      barsize: 24,
      forceRedraw: true, // even without a change: below a line that took its place
      gracefulExit: false, // the program handles signals
    },
    cliProgress.Presets.shades_classic,
  );
  let details = '';
  let validation = '';
  const stop = () => {
    bar.stop();
    drawn.delete(stream);
  };
  return {
    onTrainBegin: ({totalSteps, step = 0}) => {
      bar.start(totalSteps ?? 0, step, {details});
      drawn.set(stream, () => {
        stream.write(SAVE_CURSOR);
        bar.render();
      });
    },
    onCompile: (compiled, total) => bar.update({details: describeCompiling(compiled, total)}),
    onStepEnd: (log) => {
      if (log.totalSteps === undefined) bar.setTotal(log.step);
      details = describeStep(log);
      bar.update(log.step, {details: details + validation});
    },
    onPredict: (progress) => bar.update({details: `${details} ${describeAnswering(progress)}`}),
    onEvaluate: ({loss, metrics}) => {
      validation = ` val ${loss.toFixed(4)}${scoresOf(metrics)}`;
      bar.update({details: details + validation});
    },
    onTrainEnd: stop,
    onTrainError: stop,
  };
}

function byLines(stream: ProgressStream): TrainingCallback {
  let answering = 0;
  let shown: StepLog | undefined;
  let latest: StepLog | undefined;
  const show = (log: StepLog) => {
    const of = log.totalSteps ? `/${log.totalSteps}` : '';
    stream.write(`step ${log.step}${of} ${describeStep(log)}\n`);
    shown = log;
  };
  return {
    onCompile: (compiled, total) => {
      if (compiled === 0 || compiled === total) stream.write(`${describeCompiling(compiled, total)}\n`);
    },
    onStepEnd: (log) => {
      latest = log;
      if (!shown || log.seconds - shown.seconds >= LINE_SECONDS) show(log);
    },
    onPredict: (progress, step) => {
      if (progress.newTokens > 0 && Math.abs(progress.seconds - answering) < LINE_SECONDS) return;
      answering = progress.seconds;
      stream.write(`step ${step} ${describeAnswering(progress)}\n`);
    },
    onEvaluate: ({loss, perplexity, metrics}, step) => {
      if (latest && latest !== shown) show(latest);
      const detail = Number.isNaN(perplexity) ? '' : ` perplexity ${perplexity.toFixed(2)}`;
      stream.write(`step ${step} validation loss ${loss.toFixed(4)}${detail}${scoresOf(metrics)}\n`);
    },
    onTrainEnd: () => {
      if (latest && latest !== shown) show(latest);
    },
  };
}
