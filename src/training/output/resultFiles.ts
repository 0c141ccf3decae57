import {readJsonIfPresent} from '../../../models/jsonFile.ts';
import type {RunFolder} from '../../../quant/folders/runFolder.ts';

/** File that names the model whose evaluation results are beside it. */
export const SCORED_MODEL_FILE = 'scored_model.json';

/**
 * Writes `<split>_results.json` as transformers' `save_metrics` does, with sorted keys, and adds the numbers to
 * `all_results.json`.
 */
export async function writeResults(
  outputDir: RunFolder,
  split: 'train' | 'eval' | 'predict',
  metrics: Record<string, number>,
): Promise<void> {
  const all = 'all_results.json';
  const earlier = await readJsonIfPresent(outputDir, all).catch(() => undefined);
  await outputDir.write(`${split}_results.json`, sorted(metrics));
  await outputDir.write(all, sorted({...earlier, ...metrics}));
}

function sorted(metrics: Record<string, unknown>): string {
  const entries = Object.entries(metrics).sort(([a], [b]) => (a < b ? -1 : 1));
  return `${JSON.stringify(Object.fromEntries(entries), null, 4)}\n`;
}
