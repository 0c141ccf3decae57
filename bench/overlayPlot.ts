import {writeFileSync} from 'node:fs';
import {Resvg} from '@resvg/resvg-js';
import * as vega from 'vega';
import {compile, type TopLevelSpec} from 'vega-lite';
import {PLOT_FONT, plotFontFiles} from '../src/training/plots/fontFile.ts';

const COLORS = ['#9cc3f2', '#e07b24']; // the first is drawn wide, so that it is visible behind the second

/** Two loss curves of the same steps, by name. */
export interface Overlay {
  curves: Record<string, number[]>;
  title: string;
  subtitle: string;
}

/**
 * Draws pairs of loss curves over each other, and their relative difference below, side by side: `<path>.svg` and
 * `<path>.png`.
 */
export async function overlayPlot(overlays: Overlay[], path: string): Promise<void> {
  const spec: TopLevelSpec = {
    background: 'white',
    padding: 16,
    hconcat: overlays.map(panel),
    config: {font: PLOT_FONT, view: {stroke: null}, axis: {gridColor: '#e7eaee'}},
  };
  const view = new vega.View(vega.parse(compile(spec).spec), {renderer: 'none'});
  const svg = await view.toSVG();
  view.finalize();
  const font = {loadSystemFonts: false, fontFiles: await plotFontFiles(), defaultFontFamily: PLOT_FONT};
  const png = new Resvg(svg, {fitTo: {mode: 'zoom', value: 2}, font}).render().asPng();
  writeFileSync(`${path}.svg`, svg);
  writeFileSync(`${path}.png`, png);
}

function panel({curves, title, subtitle}: Overlay) {
  const names = Object.keys(curves);
  const [first, second] = Object.values(curves);
  const points = names.flatMap((curve) =>
    curves[curve].map((loss, index) => ({step: index + 1, loss, curve})),
  );
  const differences = first.map((loss, index) => ({
    step: index + 1,
    difference: Math.max(1e-9, Math.abs(loss / second[index] - 1)),
  }));
  const x = {field: 'step', type: 'quantitative', axis: {grid: false, tickMinStep: 1, format: ',d'}} as const;
  const color = {
    field: 'curve',
    type: 'nominal',
    title: null,
    scale: {domain: names, range: COLORS},
  } as const;
  const legend = {orient: 'top', symbolType: 'stroke', symbolSize: 400, symbolStrokeWidth: 3} as const;
  const line = (curve: string, strokeWidth: number, strokeDash?: number[]) => ({
    transform: [{filter: {field: 'curve', equal: curve}}],
    mark: {type: 'line' as const, strokeWidth, ...(strokeDash && {strokeDash})},
  });
  return {
    title: {text: title, subtitle, anchor: 'start' as const, fontSize: 18, subtitleFontSize: 13, offset: 12},
    vconcat: [
      {
        width: 640,
        height: 300,
        data: {values: points},
        encoding: {
          x: {...x, title: null},
          y: {field: 'loss', type: 'quantitative' as const, title: 'loss', scale: {zero: false}},
          color: {...color, legend},
        },
        layer: [line(names[0], 6), line(names[1], 1.5)],
      },
      {
        width: 640,
        height: 100,
        data: {values: differences},
        encoding: {
          x: {...x, title: 'optimizer step'},
          y: {
            field: 'difference',
            type: 'quantitative' as const,
            title: 'relative difference',
            scale: {type: 'log' as const},
            axis: {format: '.0e', tickCount: 4, grid: false},
          },
        },
        mark: {type: 'line' as const, strokeWidth: 1.5, color: '#5b6470'},
      },
    ],
  };
}
