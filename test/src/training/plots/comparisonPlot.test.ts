import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {plotComparison} from '../../../../src/training/plots/comparisonPlot.ts';
import {inFolder} from '../../../models/tinyLlama.ts';

const models = [
  {label: 'Before fine-tuning', scores: {'BLEU-4': 11.92, 'ROUGE-1': 26.17}},
  {label: 'LoRA: sft', scores: {'BLEU-4': 19.64, 'ROUGE-1': 44.2}},
];

test('draws a bar with its score for each model and metric', async () => {
  const svg = await plotComparison(models, undefined, {title: 'Bills', subtitle: '48 unseen'});
  for (const text of ['Bills', '48 unseen', 'Before fine-tuning', 'LoRA: sft', 'BLEU-4', 'ROUGE-1']) {
    expect(svg).toContain(text);
  }
  for (const score of ['11.9', '26.2', '19.6', '44.2']) expect(svg).toContain(`>${score}<`);
  const bars = [...svg.matchAll(/aria-label="metric: ([^;]+); score: ([\d.]+); model: ([^"]+)"/g)];
  const found = bars.map(([, metric, score, model]) => [model, metric, Number(score)]);
  const expected = models.flatMap(({label, scores}) =>
    Object.entries(scores).map(([metric, score]) => [label, metric, score]),
  );
  expect(found).toEqual(expect.arrayContaining(expected));
});

test('writes a PNG', () =>
  inFolder(async (folder) => {
    const path = join(folder, 'deeper', 'comparison.png');
    await plotComparison(models, path, {scale: 1});
    expect(readFileSync(path).subarray(1, 4).toString()).toBe('PNG');
  }));

test('refuses an empty comparison, and other kinds of files', async () => {
  await expect(plotComparison([])).rejects.toMatchObject({code: 'INVALID_ARGUMENT'});
  await expect(plotComparison(models, 'plot.gif')).rejects.toThrow('got ".gif"');
});
