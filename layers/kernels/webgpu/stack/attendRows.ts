import type * as tf from '@tensorflow/tfjs';
import {scoreSettings} from '../../../ops/attention.ts';
import {attend, attendGrad, usesMatrices} from '../attention/attention.ts';
import {gradKeyValue} from '../attention/gradKeyValue.ts';
import {gradOperands} from '../attention/gradOperands.ts';
import {gradQuery} from '../attention/gradQuery.ts';
import {attendInto, LOG2E} from '../attention/matrixAttention.ts';
import {makeSlopes, type PackedSlopes, packSlopesOfRows} from '../attention/packSlopes.ts';
import {makeHalves} from '../device/octets.ts';
import type {RowsView} from '../device/rowsView.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {buffersOf, type PackedRows, type Rows} from '../products/packRows.ts';
import {joinHeads, makeHeads, type RotaryTables, splitHeads} from './headRows.ts';

/** What the attention of all blocks shares. */
export interface AttentionSettings {
  batch: number;
  length: number;
  heads: number;
  keyValueHeads: number;
  headDim: number;
  tables: RotaryTables;
  segments: tf.TensorInfo | undefined;
  /** Whether the results and the gradients of the rows are in octets; see device/octets.ts. */
  inOctets: boolean;
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

/** Makes the heads that {@link splitInto} fills; see {@link makeHeads}. */
export function makeAllHeads(backend: WebGPUBackend, settings: AttentionSettings, isKept: boolean): Heads {
  const {heads, keyValueHeads} = settings;
  const isPacked = takesPacked(backend, settings);
  const made = (count: number) => makeHeads(backend, count, settings, isPacked, isKept);
  return {query: made(heads), key: made(keyValueHeads), value: made(keyValueHeads)};
}

/** Splits rows, from row `begin` on, into heads and rotates them. */
export function splitInto(
  backend: WebGPUBackend,
  settings: AttentionSettings,
  {query, key, value}: Heads,
  rows: HeadRows<Rows>,
  begin: number,
): void {
  const {heads, keyValueHeads} = settings;
  const parts = [
    {
      rows: rows.query,
      to: query,
      heads,
      isRotated: true,
      factor: takesPacked(backend, settings) ? scoreSettings(settings.headDim).scale * LOG2E : 1,
    },
    {rows: rows.key, to: key, heads: keyValueHeads, isRotated: true},
    {rows: rows.value, to: value, heads: keyValueHeads},
  ];
  splitHeads(backend, parts, settings, settings.tables, begin);
}

/** Whether attention takes heads in float16. */
function takesPacked(backend: WebGPUBackend, settings: AttentionSettings): boolean {
  const shape = shapeOf(settings, settings.heads);
  return usesMatrices(backend, {inputs: {query: {shape} as tf.TensorInfo}});
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

/**
 * Returns attention's result as rows `[B·T, H·D]`, and the logarithms of its sums, for backward.
 *
 * @param isKept see `makeScratch`
 */
export function attendRows(
  backend: WebGPUBackend,
  settings: AttentionSettings,
  heads: Heads,
  isKept: boolean,
): {attended: RowsView; logSums: tf.TensorInfo} {
  const {batch, length, heads: count, headDim, inOctets} = settings;
  const call = callOf(settings, heads);
  if (takesPacked(backend, settings)) {
    const attended = makeHalves(backend, batch * length, count * headDim, {inOctets, isKept});
    return {attended, logSums: attendInto(backend, call, attended)};
  }
  const [y, logSums] = attend(backend, call);
  const [{halves}] = joinHeads(backend, [{rows: y, heads: count}], settings, {inOctets, isKept});
  backend.disposeData(y.dataId);
  return {attended: halves, logSums};
}

/** The gradient of attention's result, packed, or float32 by head with the result itself. */
export type Slopes = PackedSlopes | Record<'dy' | 'y', tf.TensorInfo>;

/** Makes slopes for {@link addSlopes} to fill. */
export function makeAllSlopes(backend: WebGPUBackend, settings: AttentionSettings): Slopes {
  const {batch, length, heads, headDim} = settings;
  if (takesPacked(backend, settings)) return makeSlopes(backend, batch * heads * length, headDim);
  const make = () => makeHeads(backend, heads, settings, false);
  return {dy: make(), y: make()};
}

/**
 * Fills the slopes of the rows from `begin` on.
 *
 * @param dy gradient of these rows of `attended`. Either may be in octets
 */
export function addSlopes(
  backend: WebGPUBackend,
  settings: AttentionSettings,
  slopes: Slopes,
  {dy, attended, logSums}: {dy: Required<PackedRows>; attended: RowsView; logSums: tf.TensorInfo},
  begin: number,
): void {
  if ('halves' in slopes) {
    packSlopesOfRows(backend, slopes, {dy, y: attended, logSums}, settings, begin);
    return;
  }
  const {heads} = settings;
  splitHeads(backend, [{rows: dy, to: slopes.dy, heads}], settings, undefined, begin);
  splitHeads(backend, [{rows: {halves: attended}, to: slopes.y, heads}], settings, undefined, begin);
}

/**
 * Returns the gradients of the rows that {@link splitInto} took. Disposes all that it is given, as early as it can.
 */
export function attendRowsGrad(
  backend: WebGPUBackend,
  settings: AttentionSettings,
  heads: Heads,
  slopes: Slopes,
  logSums: tf.TensorInfo,
): HeadRows {
  const free = (...tensors: RowsView[]) => {
    for (const {dataId} of tensors) backend.disposeData(dataId);
  };
  const {heads: count, keyValueHeads, tables, inOctets} = settings;
  const call = callOf(settings, heads);
  const joined = (parts: Parameters<typeof joinHeads>[1]) => {
    const rows = joinHeads(backend, parts, settings, {isScaled: true, inOctets, tables});
    const given = parts.map(({rows}) => buffersOf(rows));
    free(...given.flatMap(({x, scales}) => (scales ? [x, scales] : [x])));
    return rows;
  };
  const joinedKeyValue = ([key, value]: tf.TensorInfo[]) =>
    joined([
      {rows: key, heads: keyValueHeads, isRotated: true},
      {rows: value, heads: keyValueHeads},
    ]);
  const joinedQuery = (rows: Rows) => joined([{rows, heads: count, isRotated: true}])[0];
  if ('halves' in slopes) {
    const operands = gradOperands(backend, call, slopes, logSums);
    const [key, value] = joinedKeyValue(gradKeyValue(backend, call, operands));
    const {scales, ...rest} = operands;
    const halves = gradQuery(backend, call, operands, true);
    free(...Object.values(rest), ...Object.values(heads));
    return {query: joinedQuery({halves, scales}), key, value};
  }
  const [dQuery, ...rest] = attendGrad(backend, {
    ...call,
    inputs: {...call.inputs, ...slopes, extra0: logSums},
  });
  free(...Object.values(slopes), logSums, ...Object.values(heads));
  const [key, value] = joinedKeyValue(rest);
  return {query: joinedQuery(dQuery), key, value};
}
