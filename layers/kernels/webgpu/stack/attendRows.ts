import type * as tf from '@tensorflow/tfjs';
import {scoreSettings} from '../../../ops/attention.ts';
import {attend, attendGrad, usesMatrices} from '../attention/attention.ts';
import {LOG2E} from '../attention/matrixAttention.ts';
import type {RowsView} from '../device/rowsView.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import type {PackedRows, Rows} from '../products/packRows.ts';
import {joinHeads, type RotaryTables, splitHeads} from './headRows.ts';

/** What the attention of all blocks shares. */
export interface AttentionSettings {
  batch: number;
  length: number;
  heads: number;
  keyValueHeads: number;
  headDim: number;
  tables: RotaryTables;
  segments: tf.TensorInfo | undefined;
}

/** Queries, keys and values by head, rotated: `[B, H, T, D]`, as the attention of the device takes them. */
export type Heads = Record<'query' | 'key' | 'value', tf.TensorInfo>;

/** Rows of queries, keys and values, `[B·T, H·D]`. */
type HeadRows<R extends Rows = PackedRows> = Record<'query' | 'key' | 'value', R>;

const shapeOf = ({batch, length, headDim}: AttentionSettings, heads: number) => [
  batch,
  heads,
  length,
  headDim,
];

/** Splits rows into heads and rotates them. */
export function headsOf(backend: WebGPUBackend, settings: AttentionSettings, rows: HeadRows<Rows>): Heads {
  const {heads, keyValueHeads} = settings;
  const shape = shapeOf(settings, heads);
  const isPacked = usesMatrices(backend, {inputs: {query: {shape} as tf.TensorInfo}});
  const parts = [
    {
      rows: rows.query,
      heads,
      isRotated: true,
      factor: isPacked ? scoreSettings(settings.headDim).scale * LOG2E : 1,
    },
    {rows: rows.key, heads: keyValueHeads, isRotated: true},
    {rows: rows.value, heads: keyValueHeads},
  ];
  const [query, key, value] = splitHeads(backend, parts, settings, isPacked, settings.tables);
  return {query, key, value};
}

/** Returns the arguments of causal attention; the shapes are those of the heads, also where two numbers share a word. */
function callOf(settings: AttentionSettings, {query, key, value}: Heads) {
  const {heads, keyValueHeads, segments} = settings;
  const shaped = (tensor: tf.TensorInfo, count: number) => ({
    ...infoOf(tensor),
    shape: shapeOf(settings, count),
  });
  return {
    inputs: {
      query: shaped(query, heads),
      key: shaped(key, keyValueHeads),
      value: shaped(value, keyValueHeads),
      segments,
    },
    attrs: {...scoreSettings(settings.headDim), causal: true},
  };
}

const infoOf = ({dataId, dtype, shape}: tf.TensorInfo): tf.TensorInfo => ({dataId, dtype, shape});

/** Returns attention's result as rows `[B·T, H·D]`, and the logarithms of its sums, for backward. */
export function attendRows(
  backend: WebGPUBackend,
  settings: AttentionSettings,
  heads: Heads,
): {attended: tf.TensorInfo; logSums: tf.TensorInfo} {
  const [y, logSums] = attend(backend, callOf(settings, heads));
  const [{halves}] = joinHeads(backend, [{rows: y, heads: settings.heads}], settings, false);
  backend.disposeData(y.dataId);
  return {attended: halves, logSums};
}

/**
 * Returns the gradients of the rows that {@link headsOf} took.
 *
 * @param dy gradient of `attended`, in the same layout
 */
export function attendRowsGrad(
  backend: WebGPUBackend,
  settings: AttentionSettings,
  heads: Heads,
  {attended, logSums, dy}: {attended: tf.TensorInfo; logSums: tf.TensorInfo; dy: PackedRows},
): HeadRows {
  const shape = shapeOf(settings, settings.heads);
  const call = callOf(settings, heads);
  const gradientsOf = (dy: tf.TensorInfo, y: tf.TensorInfo, rowScales?: RowsView) =>
    attendGrad(backend, {...call, inputs: {...call.inputs, dy, y, extra0: logSums}, rowScales});
  let gradients: tf.TensorInfo[];
  if (usesMatrices(backend, call)) {
    const [slopes, y] = [dy.halves, attended].map((rows) => ({...infoOf(rows), shape}));
    gradients = gradientsOf(slopes, y, dy.scales);
  } else {
    const {heads} = settings;
    const [slopes] = splitHeads(backend, [{rows: dy, heads}], settings, false);
    const [y] = splitHeads(backend, [{rows: {halves: attended}, heads}], settings, false);
    gradients = gradientsOf(slopes, y);
    for (const {dataId} of [slopes, y]) backend.disposeData(dataId);
  }
  const parts = gradients.map((rows, i) => ({
    rows,
    heads: i === 0 ? settings.heads : settings.keyValueHeads,
    isRotated: i < 2,
  }));
  const [query, key, value] = joinHeads(backend, parts, settings, true, settings.tables);
  for (const {dataId} of gradients) backend.disposeData(dataId);
  return {query, key, value};
}
