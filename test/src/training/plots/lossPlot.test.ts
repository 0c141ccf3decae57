import {mkdtempSync, readFileSync, rmSync} from 'node:fs';
import {createRequire} from 'node:module';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {Resvg} from '@resvg/resvg-js';
import {plotFontFiles, unwrapWoff} from '../../../../src/training/plots/fontFile.ts';
import {type LossPoint, plotLoss, smoothedLosses} from '../../../../src/training/plots/lossPlot.ts';

const losses = (count: number): LossPoint[] =>
  Array.from({length: count}, (_, index) => ({step: index + 1, loss: 0.5 + 3 * Math.exp(-index / 20)}));

const folder = mkdtempSync(join(tmpdir(), 'loss-plot-'));
afterAll(() => rmSync(folder, {recursive: true}));

test('smooths as LLaMA-Factory does', () => {
  // Its smooth([4, 2, 3, 1]), computed in Python.
  const expected = [4.0, 2.1794023903249204, 2.926391413664687, 1.172799612156424];
  const smooth = smoothedLosses([4, 2, 3, 1]);
  expect(smooth).toEqual(expected.map((value) => expect.closeTo(value, 12)));
});

test('draws raw, smoothed and validation curves', async () => {
  const svg = await plotLoss({
    training: losses(40),
    validation: [
      {step: 20, loss: 2},
      {step: 40, loss: 1},
    ],
  });
  for (const text of ['Training loss', 'optimizer step', 'each step', 'smoothed', 'validation']) {
    expect(svg).toContain(text);
  }
  const strokes = [...svg.matchAll(/<path[^>]* stroke="([^"]+)"/g)].map(([, color]) => color);
  expect(strokes.filter((color) => color === 'rgba(59, 125, 216, 0.4)').length).toBeGreaterThan(0);
  expect(await plotLoss({training: losses(40)})).not.toContain('validation');
});

test('takes what fitDataset returns, and says so otherwise', async () => {
  const history = {steps: losses(4), evaluations: losses(2)};
  expect(await plotLoss(history)).toBe(
    await plotLoss({training: history.steps, validation: history.evaluations}),
  );
  await expect(plotLoss([0.5, 0.4] as never)).rejects.toThrow('plotLoss takes what fitDataset returned');
});

test('writes a PNG whose text is drawn without any system font', async () => {
  const path = join(folder, 'deeper', 'loss.png');
  const svg = await plotLoss({training: losses(40)}, path, {title: 'Title of this plot', scale: 1});
  const png = readFileSync(path);
  expect(png.subarray(1, 4).toString()).toBe('PNG');
  const size = {width: png.readUInt32BE(16), height: png.readUInt32BE(20)};
  expect(size.width).toBeGreaterThan(640);

  // Dark pixels in the title's band, with the plot's fonts and with none at all.
  const fonts = await plotFontFiles();
  const inkOfTitle = (fontFiles: string[]): number => {
    const options = {loadSystemFonts: false, fontFiles, defaultFontFamily: 'PT Sans'};
    const image = new Resvg(svg, {font: options}).render();
    const {width, pixels} = image; // a getter that copies, so it is read once
    let dark = 0;
    for (let pixel = 0; pixel < width * 40; pixel++) if (pixels[4 * pixel] < 100) dark++;
    return dark;
  };
  expect(inkOfTitle([])).toBe(0);
  expect(inkOfTitle(fonts)).toBeGreaterThan(200);
});

test('writes SVG too, and leaves out losses that are not numbers', async () => {
  const path = join(folder, 'loss.svg');
  const svg = await plotLoss({training: [...losses(10), {step: 11, loss: Number.NaN}]}, path);
  expect(readFileSync(path, 'utf8')).toBe(svg);
  expect(svg).not.toContain('NaN');
});

test('names what is wrong', async () => {
  await expect(plotLoss({training: []})).rejects.toThrow('expected at least one finite training loss');
  await expect(plotLoss({training: losses(3)}, join(folder, 'loss.pdf'))).rejects.toThrow(
    'expected a .png or .svg file',
  );
  expect(() => unwrapWoff(Buffer.from('not a font'), 'x')).toThrow('expected a WOFF 1.0 file');
});

test('unwraps WOFF into the same tables', () => {
  const {resolve} = createRequire(__filename);
  const woff = readFileSync(resolve('@fontsource/pt-sans/files/pt-sans-latin-400-normal.woff'));
  const font = unwrapWoff(woff, 'PT Sans');
  expect(font.readUInt32BE(0)).toBe(0x00010000);
  expect(font.length).toBe(woff.readUInt32BE(16)); // the header's own count of the unwrapped size
  // Every table's checksum, as the directory states it, is that of the bytes (the head table's excepted).
  for (let index = 0; index < font.readUInt16BE(4); index++) {
    const at = 12 + 16 * index;
    if (font.toString('latin1', at, at + 4) === 'head') continue;
    const [checksum, offset, length] = [4, 8, 12].map((byte) => font.readUInt32BE(at + byte));
    let sum = 0;
    for (let byte = 0; byte < length; byte += 4) sum = (sum + font.readUInt32BE(offset + byte)) >>> 0;
    expect(sum).toBe(checksum);
  }
});
