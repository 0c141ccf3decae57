import * as tf from '@tensorflow/tfjs';
import {HALVES, HALVES_HEADER} from '../device/halves.ts';
import {largestOverWorkgroup} from '../device/largestOverWorkgroup.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {
  buffersOf,
  formatOf,
  type PackedRows,
  type Rows,
  type RowsFormat,
  shiftTo,
} from '../products/packRows.ts';

/** Tables of the rotary embedding, `[B or 1, 1, T, D / 2]` float32. */
export interface RotaryTables {
  cos: tf.TensorInfo;
  sin: tf.TensorInfo;
}

/** Options of both directions. */
interface HeadOptions {
  /** Rotates each head by its position; in the other direction, back. By default it stays as it is. */
  tables?: RotaryTables;
  /** Multiplies all numbers. Default 1. */
  factor?: number;
}

/**
 * Splits rows `[B·T, H·D]` into heads `[B, H, T, D]`. `D` is a multiple of 8.
 *
 * @param shape `[B, H, T, D]`
 * @param isPacked whether the heads are float16, in int32 of this shape with two in a word, or float32
 */
export function splitHeads(
  backend: WebGPUBackend,
  rows: Rows,
  [batch, heads, length, dim]: number[],
  isPacked: boolean,
  {tables, factor = 1}: HeadOptions = {},
): tf.TensorInfo {
  const y = isPacked
    ? makeScratch(backend, [batch * heads * length, dim / 2], 'int32')
    : makeScratch(backend, [batch, heads, length, dim]);
  const count = batch * heads * length * (dim / 8);
  runShader(backend, {
    shader: splitting(isPacked, formatOf(rows), tables !== undefined),
    buffers: {y, ...buffersOf(rows), cosines: tables?.cos, sines: tables?.sin},
    uniforms: {count, half: dim / 8, length, heads, tableStride: strideOf(tables), factor},
    threads: count,
  });
  return y;
}

const TABLES = (isRotated: boolean) => ({
  cosines: isRotated ? ('vec4f' as const) : undefined,
  sines: isRotated ? ('vec4f' as const) : undefined,
});

/** Returns the number of vectors between the tables of two sequences; 0 if all share them. */
const strideOf = (tables: RotaryTables | undefined): number =>
  !tables || tables.cos.shape[0] === 1 ? 0 : tf.util.sizeFromShape(tables.cos.shape.slice(1)) / 4;

const splitting = shader((isPacked: boolean, rows: RowsFormat, isRotated: boolean) => ({
  name: 'SplitHeads',
  outputs: {y: isPacked ? 'vec2u' : 'vec4f'},
  inputs: {
    x: rows.isPacked ? 'vec2u' : 'vec4f',
    scales: rows.hasScales ? 'f32' : undefined,
    ...TABLES(isRotated),
  },
  uniforms: {count: 'u32', half: 'u32', length: 'u32', heads: 'u32', tableStride: 'u32', factor: 'f32'},
  workgroup: 256,
  header: HALVES_HEADER,
  globals: HALVES,
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i >= u.count) { return; }
  let c = i % u.half; // a vector of the first half of a head; its partner is in the second
  let t = i / u.half % u.length;
  let b = i / u.half / u.length / u.heads;
  let h = i / u.half / u.length % u.heads;
  let row = b * u.length + t;
  let source = (row * u.heads + h) * 2u * u.half + c;
  let to = i / u.half * 2u * u.half + c;
  let factor = ${rows.hasScales ? 'scales[row] * ' : ''}u.factor;
  let first = factor * ${rows.isPacked ? 'widened(x[source])' : 'x[source]'};
  let second = factor * ${rows.isPacked ? 'widened(x[source + u.half])' : 'x[source + u.half]'};
  ${isRotated ? ROTATED('1.0') : 'let a = first; let z = second;'}
  y[to] = ${isPacked ? 'halved(a)' : 'a'};
  y[to + u.half] = ${isPacked ? 'halved(z)' : 'z'};`,
}));

/** WGSL that rotates `first` and `second` of a head at position `t` of sequence `b` to `a` and `z`. */
const ROTATED = (direction: string) => `
  let turn = b * u.tableStride + t * u.half + c;
  let s = ${direction} * sines[turn];
  let a = first * cosines[turn] - second * s;
  let z = second * cosines[turn] + first * s;`;

/**
 * Joins heads `[B, H, T, D]` float32 to packed rows `[B·T, H·D]`, a workgroup per row.
 *
 * @param isScaled whether rows are scaled so that their largest magnitude is between 1 and 2
 */
export function joinHeads(
  backend: WebGPUBackend,
  x: tf.TensorInfo,
  isScaled: boolean,
  tables?: RotaryTables,
): PackedRows {
  const [batch, heads, length, dim] = x.shape;
  const rows = batch * length;
  const halves = makeScratch(backend, [rows, (heads * dim) / 2], 'int32');
  const scales = isScaled ? backend.makeTensorInfo([rows], 'float32') : undefined;
  runShader(backend, {
    shader: joining(isScaled, tables !== undefined),
    buffers: {halves, scales, x, cosines: tables?.cos, sines: tables?.sin},
    uniforms: {rows, half: dim / 8, length, heads, tableStride: strideOf(tables)},
    workgroups: rows,
  });
  return {halves, scales};
}

const joining = shader((isScaled: boolean, isRotated: boolean) => {
  const eachPair = (body: string) => `
  for (var i = local; i < u.heads * u.half; i += WORKGROUP) {
    let h = i / u.half;
    let c = i % u.half;
    let source = ((b * u.heads + h) * u.length + t) * 2u * u.half + c;
    let first = x[source];
    let second = x[source + u.half];
    ${isRotated ? ROTATED('-1.0') : 'let a = first; let z = second;'}
    ${body}
  }`;
  return {
    name: 'JoinHeads',
    outputs: {halves: 'vec2u', scales: isScaled ? ('f32' as const) : undefined},
    inputs: {x: 'vec4f', ...TABLES(isRotated)},
    uniforms: {rows: 'u32', half: 'u32', length: 'u32', heads: 'u32', tableStride: 'u32'},
    workgroup: 128,
    header: HALVES_HEADER,
    globals: `
${HALVES}
${shiftTo(0)}
${largestOverWorkgroup(128)}`,
    body: `
  let row = flatGroup;
  if (row >= u.rows) { return; }
  let b = row / u.length;
  let t = row % u.length;
  var scale = 1.0;
  ${
    isScaled
      ? `var largest = 0.0;
  ${eachPair('largest = max(largest, max(largestOf4(a), largestOf4(z)));')}
  let shift = shiftOf(largestOverWorkgroup(largest, local));
  scale = powerOfTwo(shift);
  if (local == 0u) { scales[row] = powerOfTwo(-shift); }`
      : ''
  }
  ${eachPair(`
    let to = (row * u.heads + h) * 2u * u.half + c;
    halves[to] = halved(scale * a);
    halves[to + u.half] = halved(scale * z);`)}`,
  };
});
