import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {writeWhole} from '../../../quant/safetensors/writeWhole.ts';

/** File that names the model whose evaluation results are beside it. */
export const SCORED_MODEL_FILE = 'scored_model.json';

/**
 * Writes `<split>_results.json` as transformers' `save_metrics` does, with sorted keys, and adds the numbers to
 * `all_results.json`.
 */
export function writeResults(
  outputDir: string,
  split: 'train' | 'eval' | 'predict',
  metrics: Record<string, number>,
): void {
  writeSorted(join(outputDir, `${split}_results.json`), metrics);
  const path = join(outputDir, 'all_results.json');
  writeSorted(path, {...readIfPresent(path), ...metrics});
}

function writeSorted(path: string, metrics: Record<string, unknown>): void {
  const sorted = Object.entries(metrics).sort(([a], [b]) => (a < b ? -1 : 1));
  writeWhole(path, `${JSON.stringify(Object.fromEntries(sorted), null, 4)}\n`);
}

function readIfPresent(path: string): Record<string, unknown> {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return {};
  }
}
