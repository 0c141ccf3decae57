import type * as tf from '@tensorflow/tfjs';
import {ModuleModel} from '../../../models/moduleModel.ts';
import {countParameters, type SummarizedLayer, summarizedLayers} from '../../../models/summary.ts';
import {formatBytes} from '../run/formatBytes.ts';
import {escapeHtml} from './escapeHtml.ts';
import {display} from './notebookDisplay.ts';
import {RichOutput} from './richOutput.ts';
import {table} from './showTable.ts';

/**
 * Shows the layers of a model and their parameters in a notebook. Equal layers of several blocks are one row, with
 * their parameters summed. A Keras model is shown as its own `summary` prints it.
 *
 * @returns the table, unless a tslab notebook has displayed it
 */
export function showSummary(model: tf.LayersModel): RichOutput | undefined {
  return display(model instanceof ModuleModel ? summaryOf(model) : printedSummaryOf(model));
}

function summaryOf(model: ModuleModel): RichOutput {
  const {total, trainable} = countParameters(model);
  const count = (number: number) => number.toLocaleString('en-US');
  const size = model.byteLength > 0 ? formatBytes(model.byteLength) : 'not in memory';
  const caption =
    `${model.name} (${model.getClassName()}, ${model.storage}, ${size}): ` +
    `${count(total)} parameters, ${count(trainable)} of them train (${((100 * trainable) / total).toFixed(2)} %)`;
  return table(foldedBlocks(summarizedLayers(model)).map(row), caption);
}

const row = ({name, className, weights, total, trainable}: SummarizedLayer) => ({
  layer: name,
  type: className,
  weights,
  parameters: total,
  'of them train': trainable,
});

/** Combines layers that differ only in the number of their block, and puts the range of blocks into the name. */
function foldedBlocks(layers: SummarizedLayer[]): SummarizedLayer[] {
  const folds = new Map<string, {layer: SummarizedLayer; blocks: number[]}>();
  for (const {name, total, trainable, ...look} of layers) {
    const block = /\.(\d+)\./.exec(name);
    const pattern = name.replace(/\.\d+\./, '.{}.');
    const key = JSON.stringify([pattern, look, total, trainable]);
    const fold = folds.get(key) ?? {layer: {...look, name: pattern, total: 0, trainable: 0}, blocks: []};
    fold.layer.total += total;
    fold.layer.trainable += trainable;
    if (block) fold.blocks.push(Number(block[1]));
    folds.set(key, fold);
  }
  return [...folds.values()].map(({layer, blocks}) => ({
    ...layer,
    name: layer.name.replace('{}', rangesOf(blocks)),
  }));
}

/** Writes ascending numbers as ranges: `0–15`, or `0, 2–3`. */
function rangesOf(numbers: number[]): string {
  const ranges: [from: number, to: number][] = [];
  for (const number of numbers) {
    const last = ranges.at(-1);
    if (last && number === last[1] + 1) last[1] = number;
    else ranges.push([number, number]);
  }
  return ranges.map(([from, to]) => (from === to ? String(from) : `${from}–${to}`)).join(', ');
}

function printedSummaryOf(model: tf.LayersModel): RichOutput {
  const lines: string[] = [];
  model.summary(undefined, undefined, (line) => lines.push(line));
  const text = lines.join('\n');
  return RichOutput.html(`<pre>${escapeHtml(text)}</pre>`, text);
}
