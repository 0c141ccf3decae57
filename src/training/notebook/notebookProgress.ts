import {TfjsLoraError} from '../../../quant/errors.ts';
import type {TrainingCallback} from '../run/callbacks.ts';
import {describeAnswering, describeCompiling, describeStep, scoresOf} from '../run/describeStep.ts';
import {escapeHtml} from './escapeHtml.ts';
import {displayInPlace} from './notebookDisplay.ts';
import {RichOutput} from './richOutput.ts';

/** Seconds between two drawings. */
const DRAWING_SECONDS = 0.25;

/**
 * Makes a callback that shows the progress of a run in one line, which is redrawn in place. `fitDataset` uses it in a
 * tslab notebook, unless it has another `progressStream` or `verbose: 0`.
 *
 * @param draw receives each drawing, of HTML and of text. Default: displays it below the running cell
 * @throws TfjsLoraError `UNSUPPORTED` without `draw` where there is no tslab notebook
 */
export function notebookProgress(draw: (output: RichOutput) => void = drawInPlace()): TrainingCallback {
  let steps = {done: 0, total: undefined as number | undefined};
  let drawnAt = Number.NEGATIVE_INFINITY;
  let details = 'starting';
  let validation = '';
  let answering = '';
  let isDrawn = false;
  const redraw = () => {
    draw(line(steps, details + validation + answering));
    isDrawn = true;
  };
  const close = () => {
    if (!isDrawn) redraw();
  };
  return {
    onTrainBegin: ({totalSteps, step = 0}) => {
      steps = {done: step, total: totalSteps};
      redraw();
    },
    onCompile: (compiled, total) => {
      details = describeCompiling(compiled, total);
      redraw();
    },
    onStepEnd: (log) => {
      steps = {done: log.step, total: log.totalSteps};
      details = describeStep(log);
      answering = '';
      isDrawn = false;
      if (log.seconds - drawnAt < DRAWING_SECONDS) return;
      drawnAt = log.seconds;
      redraw();
    },
    onPredict: (progress) => {
      answering = ` ${describeAnswering(progress)}`;
      redraw();
    },
    onEvaluate: ({loss, metrics}) => {
      answering = '';
      validation = ` val ${loss.toFixed(4)}${scoresOf(metrics)}`;
      redraw();
    },
    onTrainEnd: close,
    onTrainError: () => {
      details = `failed after ${details}`;
      redraw();
    },
  };
}

function drawInPlace(): (output: RichOutput) => void {
  const draw = displayInPlace();
  if (draw) return draw;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    'notebookProgress: expected a tslab notebook, got another program. Pass a function that draws, or leave the ' +
      'progress to fitDataset.',
  );
}

function line({done, total}: {done: number; total?: number}, details: string): RichOutput {
  const text = `${done}${total === undefined ? '' : `/${total}`} ${details}`;
  const bar = total === undefined ? '' : `<progress value="${done}" max="${total}"></progress> `;
  return RichOutput.html(`<code style="white-space: nowrap">${bar}${escapeHtml(text)}</code>`, text);
}
