import {extname} from 'node:path';
import type {TopLevelSpec} from 'vega-lite';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {writeWhole} from '../../../quant/safetensors/writeWhole.ts';
import {PLOT_FONT, plotFontFiles} from './fontFile.ts';

/** The common look of all plots. */
const CONFIG: TopLevelSpec['config'] = {
  font: PLOT_FONT,
  view: {stroke: null},
  title: {
    anchor: 'start',
    fontSize: 18,
    subtitleFontSize: 13,
    subtitleColor: '#5b6470',
    color: '#1d2733',
    offset: 14,
  },
  axis: {
    labelFontSize: 12,
    titleFontSize: 13,
    titleFontWeight: 'normal',
    labelColor: '#3d4753',
    titleColor: '#3d4753',
    gridColor: '#e7eaee',
    domainColor: '#9aa3ad',
    tickColor: '#9aa3ad',
    titlePadding: 10,
    labelPadding: 5,
  },
  axisY: {domain: false, ticks: false},
  legend: {labelFontSize: 12, labelColor: '#3d4753'},
};

/** The packages that draw. They are optional: `npm install --omit=optional` leaves them out. */
const PACKAGES = 'vega vega-lite @resvg/resvg-js @fontsource/pt-sans';

/**
 * Checks that plots can be drawn. Call it before work whose results are plotted.
 *
 * @throws TfjsLoraError `UNSUPPORTED` with the command that installs what is missing
 */
export async function assertCanPlot(): Promise<void> {
  await needed(() =>
    Promise.all([import('vega'), import('vega-lite'), import('@resvg/resvg-js'), plotFontFiles()]),
  );
}

async function needed<T>(load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (cause) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `plot: expected the optional packages that draw, got: ${(cause as Error).message.split('\n')[0]}. Install them: ` +
        `npm install ${PACKAGES}`,
      {cause},
    );
  }
}

/**
 * Draws a plot, and writes it if there is a path. Vega is loaded only on the first call. The text's font comes with the
 * package, so no system font is needed.
 *
 * @param path a `.png` or `.svg` file to write; missing folders are made. Default: nothing is written
 * @param scale pixels of the PNG per pixel of the SVG. Default 2
 * @returns the plot as SVG
 * @throws TfjsLoraError `INVALID_ARGUMENT` for another kind of file, `UNSUPPORTED` as {@link assertCanPlot}
 */
export async function renderPlot(spec: TopLevelSpec, path?: string, scale = 2): Promise<string> {
  const kind = path === undefined ? undefined : extname(path).toLowerCase();
  if (kind !== undefined && kind !== '.png' && kind !== '.svg') {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `plot path ${path}: expected a .png or .svg file, got "${kind}"`,
    );
  }
  const [vega, vegaLite] = await needed(() => Promise.all([import('vega'), import('vega-lite')]));
  const compiled = vegaLite.compile({background: 'white', padding: 16, ...spec, config: CONFIG}).spec;
  const view = new vega.View(vega.parse(compiled), {renderer: 'none'});
  let svg: string;
  try {
    svg = await view.toSVG();
  } finally {
    view.finalize();
  }
  if (path !== undefined) {
    writeWhole(path, kind === '.svg' ? svg : await renderPng(svg, scale));
  }
  return svg;
}

/** Renders an SVG as PNG, with the plot's own font. */
async function renderPng(svg: string, scale: number): Promise<Uint8Array> {
  const [{Resvg}, fontFiles] = await needed(() => Promise.all([import('@resvg/resvg-js'), plotFontFiles()]));
  const renderer = new Resvg(svg, {
    fitTo: {mode: 'zoom', value: scale},
    font: {
      loadSystemFonts: false,
      fontFiles,
      defaultFontFamily: PLOT_FONT,
      sansSerifFamily: PLOT_FONT,
    },
  });
  return renderer.render().asPng();
}
