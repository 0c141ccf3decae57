/**
 * Draws the results of `gpu.ts --only curve --json results.json`.
 *
 *   npx tsx bench/gpu/plotCurve.ts results.json curve.svg
 */
import {readFileSync} from 'node:fs';
import {renderPlot} from '../../src/training/plots/renderPlot.ts';
import type {Curves} from './curve.ts';

/** The curves, from the widest, which is drawn first and is visible on both sides of the others, to the thinnest. */
const LINES: Record<string, {color: string; width: number}> = {
  'PyTorch bfloat16': {color: '#9cc3f2', width: 7},
  float32: {color: '#17458f', width: 3},
  float16: {color: '#e07b24', width: 1.2},
};

const [source, target] = process.argv.slice(2);
const {device, losses} = JSON.parse(readFileSync(source, 'utf8')) as {
  device: {device: string};
  losses: Curves;
};
const names = Object.keys(LINES);
const rows = names.flatMap((curve) => losses[curve].map((loss, index) => ({step: index + 1, loss, curve})));
const against = names
  .filter((curve) => curve !== 'float32')
  .flatMap((curve) =>
    losses[curve].map((loss, index) => ({
      step: index + 1,
      difference: 100 * (loss / losses.float32[index] - 1),
      curve,
    })),
  );
const x = {
  field: 'step',
  type: 'quantitative',
  scale: {nice: false},
  axis: {grid: false, tickMinStep: 1, format: ',d'},
} as const;
const color = {
  field: 'curve',
  type: 'nominal',
  title: null,
  scale: {domain: names, range: names.map((name) => LINES[name].color)},
  legend: {orient: 'top', symbolType: 'stroke', symbolSize: 400, symbolStrokeWidth: 3},
} as const;
const lineOf = (curve: string, strokeWidth: number) => ({
  transform: [{filter: {field: 'curve', equal: curve}}],
  mark: {type: 'line' as const, strokeWidth, strokeJoin: 'round' as const},
});

await renderPlot(
  {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: {
      text: 'The same steps in float16, float32 and PyTorch',
      subtitle: `LoRA on the same weights and batches, ${device.device}`,
    },
    vconcat: [
      {
        width: 640,
        height: 300,
        data: {values: rows},
        encoding: {
          x: {...x, title: null},
          y: {field: 'loss', type: 'quantitative', title: 'loss', scale: {zero: false}},
          color,
        },
        layer: names.map((name) => lineOf(name, LINES[name].width)),
      },
      {
        width: 640,
        height: 110,
        data: {values: against},
        encoding: {
          x: {...x, title: 'optimizer step'},
          y: {field: 'difference', type: 'quantitative', title: '% from float32', axis: {tickCount: 5}},
          color,
        },
        layer: [lineOf(names[0], 2), lineOf('float16', 1.2)],
      },
    ],
  },
  target,
);
