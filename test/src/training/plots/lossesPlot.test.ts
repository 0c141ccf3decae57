import {mkdtempSync, readFileSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {type LabeledLosses, plotLosses} from '../../../../src/training/plots/lossesPlot.ts';

const folder = mkdtempSync(join(tmpdir(), 'losses-plot-'));
afterAll(() => rmSync(folder, {recursive: true}));

const run = (label: string, first: number): LabeledLosses => ({
  label,
  training: Array.from({length: 12}, (_, i) => ({step: i + 1, loss: first / (i + 1)})),
});
const colorsOf = (svg: string, attribute: 'stroke' | 'fill') =>
  [...svg.matchAll(new RegExp(`<path[^>]* ${attribute}="(#[0-9a-f]{6})"`, 'g'))].map(([, color]) => color);

test('draws one curve for each run, in colours of their own, and validation losses as points', async () => {
  const svg = await plotLosses([run('one', 4), run('two', 3)], undefined, {title: 'Both'});
  for (const text of ['Both', 'one', 'two', 'smoothed', 'optimizer step']) expect(svg).toContain(text);
  expect(svg).not.toContain('validation');
  const curves = (text: string) => colorsOf(text, 'stroke').filter((color) => color !== '#000000');
  expect(new Set(curves(svg))).toEqual(new Set(['#17458f', '#e07b24']));
  const validation = [
    {step: 12, loss: 1},
    {step: 6, loss: Number.NaN},
  ];
  const withPoints = await plotLosses([run('one', 4), {...run('two', 3), validation}]);
  expect(withPoints).toContain('points: validation');
  expect(withPoints).not.toContain('NaN');
  const points = (text: string) => colorsOf(text, 'fill').filter((color) => color === '#e07b24').length;
  expect(points(withPoints)).toBe(points(svg) + 1);
});

test('writes a file, and names a run that it cannot draw', async () => {
  const path = join(folder, 'losses.svg');
  expect(await plotLosses([run('one', 4)], path)).toBe(readFileSync(path, 'utf8'));
  for (const [runs, message] of [
    [[], 'plotLosses runs: expected at least one, got none'],
    [[run('a', 1), run('a', 2)], 'plotLosses run 1: expected a label of its own, got "a" again'],
    [
      [{label: 'a', training: [{step: 1, loss: Number.NaN}]}],
      'plotLosses run a: expected at least one finite',
    ],
  ] as const) {
    await expect(plotLosses(runs)).rejects.toThrow(message);
  }
});
