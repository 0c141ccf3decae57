import {mkdtempSync, readdirSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {AdamW, Llama} from '../../../../src/index.ts';
import {assertCanPlot, plotLoss} from '../../../../src/training/plots/index.ts';
import {tinyConfig} from '../../../models/tinyLlama.ts';

// As after `npm install --omit=optional`.
jest.mock('vega', () => {
  throw new Error("Cannot find package 'vega'");
});

const refusal = {
  code: 'UNSUPPORTED',
  message:
    "plot: expected the optional packages that draw, got: Cannot find package 'vega'. Install them: " +
    'npm install vega vega-lite @resvg/resvg-js @fontsource/pt-sans',
};

test('a plot without the packages that draw names the command that installs them', async () => {
  await expect(plotLoss({training: [{step: 1, loss: 1}]})).rejects.toMatchObject(refusal);
  await expect(assertCanPlot()).rejects.toMatchObject(refusal);
});

test('a training that is to be plotted is refused before its first step', async () => {
  await tf.setBackend('cpu');
  const outputDir = mkdtempSync(join(tmpdir(), 'tfjs-lora-no-plot-'));
  const model = Llama.fromConfig(tinyConfig, {seed: 1});
  try {
    model.applyLoRA({rank: 2});
    model.compile({optimizer: new AdamW()});
    const args = {outputDir, plotLoss: true, verbose: 0};
    await expect(model.fitDataset([{inputIds: [1, 2, 3]}], args)).rejects.toMatchObject(refusal);
    expect(readdirSync(outputDir)).toEqual([]);
  } finally {
    model.dispose();
    rmSync(outputDir, {recursive: true});
  }
});
