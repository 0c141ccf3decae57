import {join} from 'node:path';
import {writeWhole} from '../../../quant/safetensors/writeWhole.ts';
import type {Prediction} from './predictionScores.ts';

/** Writes `generated_predictions.jsonl` as LLaMA-Factory does. */
export function writePredictions(folder: string, predictions: readonly Prediction[]): void {
  const lines = predictions.map(({prompt, predict, label}) => {
    // Python's json.dumps puts a space after commas and colons.
    const [first, second, third] = [prompt, predict, label].map((text) => JSON.stringify(text));
    return `{"prompt": ${first}, "predict": ${second}, "label": ${third}}\n`;
  });
  writeWhole(join(folder, 'generated_predictions.jsonl'), lines.join(''));
}
