import type {TopLevelSpec} from 'vega-lite';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {show} from '../../../quant/show.ts';
import {renderPlot} from './renderPlot.ts';

/** A loss, and the optimizer step after which it was measured. */
export interface LossPoint {
  step: number;
  loss: number;
}

/** Losses of a run, in order of steps. */
export interface LossHistory {
  training: readonly LossPoint[];
  validation?: readonly LossPoint[];
}

/** The losses of a run: what `fitDataset` returns, or the same points from elsewhere. */
export type Losses = TrainedLosses | LossHistory;

interface TrainedLosses {
  steps: readonly LossPoint[];
  evaluations?: readonly LossPoint[];
}

export interface LossPlotOptions {
  /** Default `Training loss`. */
  title?: string;
  subtitle?: string;
  /** Legend of the raw curve. Default `each step`. */
  rawLabel?: string;
  /** Title of the vertical axis. Default `loss`. */
  valueLabel?: string;
  /** Width and height of the plot area, in pixels of the SVG. Default 640 × 360. */
  width?: number;
  height?: number;
  /** Pixels of the PNG per pixel of the SVG. Default 2. */
  scale?: number;
}
const PLOT_OPTIONS = {
  title: true,
  subtitle: true,
  rawLabel: true,
  valueLabel: true,
  width: true,
  height: true,
  scale: true,
} satisfies OptionNames<LossPlotOptions>;

const RAW_COLOR = 'rgba(59, 125, 216, 0.4)';
const SMOOTH_COLOR = '#17458f';
const VALIDATION_COLOR = '#e07b24';

/**
 * Smooths losses by the exponential average that LLaMA-Factory draws: every value is `w · previous + (1 − w) · loss`
 * with `w = 1.8 · (σ(0.05 · n) − 0.5)`, so longer runs are smoothed more.
 */
export function smoothedLosses(losses: readonly number[]): number[] {
  const weight = 1.8 * (1 / (1 + Math.exp(-0.05 * losses.length)) - 0.5);
  let last = losses[0];
  return losses.map((loss) => {
    last = weight * last + (1 - weight) * loss;
    return last;
  });
}

/** The axes of all plots of losses. */
export const LOSS_AXES = {
  x: {
    field: 'step',
    type: 'quantitative',
    title: 'optimizer step',
    scale: {nice: false, zero: false},
    axis: {grid: false, tickMinStep: 1, format: ',d'},
  },
  y: {field: 'loss', type: 'quantitative', title: 'loss', scale: {zero: false, nice: true}},
} as const;

/** Leaves out losses that a plot cannot show: NaN and infinite ones. */
export function finitePoints(points: readonly LossPoint[]): LossPoint[] {
  if (Array.isArray(points))
    return points.filter(({step, loss}) => Number.isFinite(step) && Number.isFinite(loss));
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `plot losses: expected a list of {step, loss} under training, got ${show(points)}. plotLoss takes what fitDataset ` +
      'returned; plotLosses takes {label, training: history.steps} for each run.',
  );
}

/** Returns the points of a run's losses. */
export const lossesOf = (history: Losses): LossHistory =>
  'steps' in Object(history)
    ? {training: (history as TrainedLosses).steps, validation: (history as TrainedLosses).evaluations}
    : {...(history as LossHistory)};

/**
 * Draws a run's loss: the raw curve faint, its exponential average on top, validation losses as points. In a notebook,
 * show the returned SVG; with a path, the plot is also written.
 *
 * Vega is loaded only on the first call. The text's font comes with the package, so no system font is needed.
 *
 * @param history losses of a run, such as `fitDataset` returns; those that are not finite are left out
 * @param path a `.png` or `.svg` file to write; missing folders are made. Default: nothing is written
 * @returns the plot as SVG
 * @throws TfjsLoraError `INVALID_ARGUMENT` when there is no finite training loss or for another kind of file
 * @example
 * ```ts
 * import {plotLoss} from 'tfjs-lora/plots';
 *
 * await plotLoss({training: [{step: 1, loss: 3.9}, {step: 2, loss: 2.4}]}, 'loss.svg', {title: 'Bills'});
 * ```
 */
export async function plotLoss(
  history: Losses,
  path?: string,
  options: LossPlotOptions = {},
): Promise<string> {
  assertKnownOptions('plotLoss', options, PLOT_OPTIONS);
  return renderPlot(lossSpec(lossesOf(history), options), path, options.scale);
}

function lossSpec(history: LossHistory, options: LossPlotOptions): TopLevelSpec {
  const {title = 'Training loss', subtitle, rawLabel = 'each step', width = 640, height = 360} = options;
  const {valueLabel = LOSS_AXES.y.title} = options;
  const training = finitePoints(history.training);
  const validation = finitePoints(history.validation ?? []);
  if (training.length === 0) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `plotLoss history: expected at least one finite training loss, got none of ${history.training.length}. ` +
        'Train first.',
    );
  }
  const smooth = smoothedLosses(training.map(({loss}) => loss));
  const rows = [
    ...training.map(({step, loss}) => ({step, loss, curve: rawLabel})),
    ...training.map(({step}, index) => ({step, loss: smooth[index], curve: 'smoothed'})),
    ...validation.map(({step, loss}) => ({step, loss, curve: 'validation'})),
  ];
  const names = [rawLabel, 'smoothed', ...(validation.length > 0 ? ['validation'] : [])];
  const colors = [RAW_COLOR, SMOOTH_COLOR, VALIDATION_COLOR].slice(0, names.length);
  const only = (curve: string) => ({filter: {field: 'curve', equal: curve}}) as const;
  const isShort = training.length < 3; // a line of one point would be invisible
  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    width,
    height,
    title: {text: title, ...(subtitle !== undefined && {subtitle})},
    data: {values: rows},
    encoding: {
      ...LOSS_AXES,
      y: {...LOSS_AXES.y, title: valueLabel},
      color: {
        field: 'curve',
        type: 'nominal',
        title: null,
        scale: {domain: names, range: colors},
        legend: {
          orient: 'top',
          direction: 'horizontal',
          offset: 10,
          symbolType: 'stroke',
          symbolSize: 400,
          symbolStrokeWidth: 2.5,
          symbolOpacity: 1,
        },
      },
    },
    layer: [
      {transform: [only(rawLabel)], mark: {type: 'line', strokeWidth: 1.5, point: isShort}},
      {
        transform: [only('smoothed')],
        mark: {type: 'line', strokeWidth: 2.5, strokeCap: 'round', strokeJoin: 'round'},
      },
      {
        transform: [only('validation')],
        mark: {type: 'line', strokeWidth: 2, point: {size: 55, filled: true}, strokeDash: [5, 4]},
      },
    ],
  };
}
