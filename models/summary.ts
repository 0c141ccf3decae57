import type * as tf from '@tensorflow/tfjs';
import {AdaptedLayer} from '../layers/adaptedLayer.ts';
import {ModuleLayer, namedParameters, walk} from '../layers/moduleLayer.ts';

/** Numbers of a model's parameters. A 16-bit weight counts its elements, not its packed words. */
export interface ParameterCounts {
  total: number;
  trainable: number;
}

/** A model whose weights can be counted. */
export interface CountedModel {
  readonly layers: tf.layers.Layer[];
}

/** The part of a model that the table shows. */
export interface SummarizedModel extends CountedModel {
  readonly name: string;
  readonly storage: string;
  getClassName(): string;
}

/** One layer's row in the table: its name and class, the shapes of its matrices, and its parameters. */
export interface SummarizedLayer extends ParameterCounts {
  name: string;
  className: string;
  weights: string;
}

/**
 * Counts the weights of a model, allocated or not: all of them, and those that train.
 *
 * @example
 * ```ts
 * import {Llama} from 'tfjs-lora';
 * import {countParameters} from 'tfjs-lora/models';
 *
 * const shape = Llama.fromConfig('llama-3.2-1b', {allocate: false}).applyLoRA({rank: 8});
 * console.log(countParameters(shape).trainable); // 5636096
 * ```
 */
export function countParameters({layers}: CountedModel): ParameterCounts {
  let total = 0;
  let trainable = 0;
  // Replicated layers share their weights.
  for (const parameter of new Set([...namedParameters(layers)].map(([, parameter]) => parameter))) {
    total += parameter.size;
    if (parameter.trainable) trainable += parameter.size;
  }
  return {total, trainable};
}

/** Prints a table of the layers with weights, and the totals; see `CausalLM.summary`. */
export function printSummary(
  model: SummarizedModel,
  lineLength = 100,
  positions: number[] = [0.55, 0.72, 0.86, 1],
  printFn?: (line: string) => void,
): void {
  const rows = summarizedLayers(model).map(({name, className, weights, total, trainable}) => [
    `${name} (${className})`,
    weights,
    formatCount(total),
    formatCount(trainable),
  ]);
  const head = ['Layer (type)', 'Weight shapes', 'Param #', 'Trainable #'];
  printTable(model, [head, ...rows], countParameters(model), lineLength, positions, printFn);
}

/**
 * Prints a table about a model, as Keras does, and its numbers of parameters.
 *
 * @param rows the cells of each row, after those of the head
 * @param positions ends of the columns: shares of the line, or numbers of characters
 */
export function printTable(
  model: SummarizedModel,
  [head, ...rows]: string[][],
  {total, trainable}: ParameterCounts,
  lineLength: number,
  positions: number[],
  printFn: (line: string) => void = (line) => globalThis.console.log(line),
): void {
  const ends = positions.map((position) => (position <= 1 ? Math.floor(position * lineLength) : position));
  const row = (cells: string[]) =>
    cells.reduce((line, cell, i) => (line + cell).slice(0, ends[i] - 1).padEnd(ends[i]), '').trimEnd();
  const lines = [
    `Model: ${model.name} (${model.getClassName()}, ${model.storage})`,
    '_'.repeat(lineLength),
    row(head),
    '='.repeat(lineLength),
    ...rows.map(row),
    '='.repeat(lineLength),
    `Total params: ${formatCount(total)}`,
    `Trainable params: ${formatCount(trainable)} (${((100 * trainable) / total).toFixed(4)} %)`,
    `Non-trainable params: ${formatCount(total - trainable)}`,
    '_'.repeat(lineLength),
  ];
  for (const line of lines) printFn(line);
}

/** Lists the layers with weights. An adapted layer also stands for its base. */
export function summarizedLayers({layers}: CountedModel): SummarizedLayer[] {
  const named = new Map<string, ModuleLayer>();
  for (const layer of walk(layers)) {
    if (layer instanceof ModuleLayer && ownAndSameName(layer).length > 0 && !named.has(layer.name))
      named.set(layer.name, layer);
  }
  return [...named.values()].map(describe);
}

function ownAndSameName(layer: ModuleLayer) {
  return [...walk([layer])]
    .filter((inner): inner is ModuleLayer => inner instanceof ModuleLayer && inner.name === layer.name)
    .flatMap((inner) => [...inner.parameters.values()]);
}

function describe(layer: ModuleLayer): SummarizedLayer {
  const parameters = ownAndSameName(layer);
  const count = (chosen: typeof parameters) => chosen.reduce((sum, parameter) => sum + parameter.size, 0);
  const ofAdapters = layer instanceof AdaptedLayer ? layer.adapterParameters : [];
  const matrices = parameters.filter((parameter) => !ofAdapters.includes(parameter));
  return {
    name: layer.name,
    className: (layer as tf.layers.Layer).getClassName(),
    weights: matrices.map((parameter) => `[${parameter.logicalShape.join(', ')}]`).join(' '),
    total: count(parameters),
    trainable: count(parameters.filter((parameter) => parameter.trainable)),
  };
}

/** Writes a count with commas between thousands. */
export const formatCount = (count: number) => count.toLocaleString('en-US');
