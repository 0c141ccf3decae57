import type {TopLevelSpec} from 'vega-lite';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../../../quant/knownOptions.ts';
import {RUN_COLORS} from './lossesPlot.ts';
import {renderPlot} from './renderPlot.ts';

/** The scores of one model. */
export interface ComparedScores {
  label: string;
  /** Scores from 0 to 100, by the metric's name; all models have the same metrics. */
  scores: Readonly<Record<string, number>>;
}

export interface ComparisonPlotOptions {
  /** Default `Scores`. */
  title?: string;
  subtitle?: string;
  /** Width and height of the plot area, in pixels of the SVG. Default: as wide as the bars need, and 300 high. */
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
} satisfies OptionNames<ComparisonPlotOptions>;

/** Grey for the base model, then colours for trained models. */
const COLORS = ['#9aa3ad', ...RUN_COLORS];

/**
 * Draws models side by side: a group of bars for each metric, with a bar for each model and its score above it.
 *
 * @param path a `.png` or `.svg` file to write; missing folders are made. Default: nothing is written
 * @returns the plot as SVG
 * @throws TfjsLoraError `INVALID_ARGUMENT` when there is no model or for another kind of file
 */
export async function plotComparison(
  models: readonly ComparedScores[],
  path?: string,
  options: ComparisonPlotOptions = {},
): Promise<string> {
  assertKnownOptions('plotComparison', options, PLOT_OPTIONS);
  if (models.length === 0) {
    throw new TfjsLoraError('INVALID_ARGUMENT', 'plotComparison: expected at least one model, got none');
  }
  return renderPlot(comparisonSpec(models, options), path, options.scale);
}

function comparisonSpec(models: readonly ComparedScores[], options: ComparisonPlotOptions): TopLevelSpec {
  const metrics = Object.keys(models[0].scores);
  const {title = 'Scores', subtitle, height = 300} = options;
  const {width = Math.max(420, metrics.length * (models.length * 40 + 24))} = options;
  const rows = models.flatMap(({label, scores}) =>
    metrics.map((metric) => ({model: label, metric, score: scores[metric]})),
  );
  const labels = models.map(({label}) => label);
  const range = labels.map((_, index) => COLORS[index % COLORS.length]);
  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    width,
    height,
    title: {text: title, ...(subtitle !== undefined && {subtitle})},
    data: {values: rows},
    encoding: {
      x: {
        field: 'metric',
        type: 'nominal',
        sort: metrics,
        title: null,
        axis: {labelAngle: 0, ticks: false},
        scale: {paddingInner: 0.2, paddingOuter: 0.1},
      },
      xOffset: {field: 'model', type: 'nominal', sort: labels},
      y: {field: 'score', type: 'quantitative', title: 'score', scale: {nice: true}},
    },
    layer: [
      {
        mark: {type: 'bar', cornerRadiusEnd: 2},
        encoding: {
          color: {
            field: 'model',
            type: 'nominal',
            title: null,
            scale: {domain: labels, range},
            legend: {orient: 'top', direction: 'horizontal', offset: 22, columns: 3, labelLimit: 400},
          },
        },
      },
      {
        mark: {type: 'text', dy: -7, fontSize: 11, color: '#3d4753'},
        encoding: {text: {field: 'score', type: 'quantitative', format: '.1f'}},
      },
    ],
  };
}
