import type {TopLevelSpec} from 'vega-lite';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {finitePoints, LOSS_AXES, type LossPoint, smoothedLosses} from './lossPlot.ts';
import {renderPlot} from './renderPlot.ts';

/** Colours of runs, which also differ in brightness. */
export const RUN_COLORS = ['#17458f', '#e07b24', '#5aa469', '#8c5fbf', '#c0392b', '#2aa5b8', '#b59a3c'];

/** The losses of one run of several, in order of steps. */
export interface LabeledLosses {
  label: string;
  training: readonly LossPoint[];
  validation?: readonly LossPoint[];
}

export interface LossesPlotOptions {
  /** Default `Training loss`. */
  title?: string;
  /** Default `smoothed`, and `points: validation` if there are any. */
  subtitle?: string;
  /** Width and height of the plot area, in pixels of the SVG. Default 640 × 360. */
  width?: number;
  height?: number;
  /** Pixels of the PNG per pixel of the SVG. Default 2. */
  scale?: number;
}
const PLOT_OPTIONS = {
  title: true,
  subtitle: true,
  width: true,
  height: true,
  scale: true,
} satisfies OptionNames<LossesPlotOptions>;

/**
 * Draws the losses of several runs in one plot: a smoothed curve for each run, and its validation losses as points.
 *
 * @param runs in the order of the legend; losses that are not finite are left out
 * @param path a `.png` or `.svg` file to write; missing folders are made. Default: nothing is written
 * @returns the plot as SVG
 * @throws TfjsLoraError `INVALID_ARGUMENT` when there is no run, when one has no finite training loss, when two have
 *   the same label, or for another kind of file
 */
export async function plotLosses(
  runs: readonly LabeledLosses[],
  path?: string,
  options: LossesPlotOptions = {},
): Promise<string> {
  assertKnownOptions('plotLosses', options, PLOT_OPTIONS);
  return renderPlot(lossesSpec(runs, options), path, options.scale);
}

function lossesSpec(runs: readonly LabeledLosses[], options: LossesPlotOptions): TopLevelSpec {
  assertRuns(runs);
  const points = runs.flatMap(({label, validation = []}) =>
    finitePoints(validation).map((point) => ({...point, label})),
  );
  const curves = runs.flatMap(({label, training}) => {
    const finite = finitePoints(training);
    const smooth = smoothedLosses(finite.map(({loss}) => loss));
    return finite.map(({step}, i) => ({step, loss: smooth[i], label}));
  });
  const labels = runs.map(({label}) => label);
  const range = labels.map((_, i) => RUN_COLORS[i % RUN_COLORS.length]);
  const {title = 'Training loss', width = 640, height = 360} = options;
  const {subtitle = points.length > 0 ? 'smoothed; points: validation' : 'smoothed'} = options;
  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    width,
    height,
    title: {text: title, subtitle},
    encoding: {
      ...LOSS_AXES,
      color: {
        field: 'label',
        type: 'nominal',
        title: null,
        scale: {domain: labels, range},
        legend: {orient: 'top', direction: 'horizontal', offset: 10, columns: 3, labelLimit: 400},
      },
    },
    layer: [
      {
        data: {values: curves},
        mark: {type: 'line', strokeWidth: 2.5, strokeCap: 'round', strokeJoin: 'round'},
      },
      {data: {values: points}, mark: {type: 'point', size: 55, filled: true, opacity: 1}},
    ],
  };
}

function assertRuns(runs: readonly LabeledLosses[]): void {
  const refuse = (message: string): never => {
    throw new TfjsLoraError('INVALID_ARGUMENT', `plotLosses ${message}`);
  };
  if (runs.length === 0) refuse('runs: expected at least one, got none');
  for (const [i, {label, training}] of runs.entries()) {
    if (finitePoints(training).length === 0)
      refuse(
        `run ${label}: expected at least one finite training loss, got none of ${training.length}. Train first.`,
      );
    if (runs.findIndex((run) => run.label === label) < i)
      refuse(`run ${i}: expected a label of its own, got "${label}" again`);
  }
}
