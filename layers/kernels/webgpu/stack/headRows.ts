import * as tf from '@tensorflow/tfjs';
import {HALVES, HALVES_HEADER} from '../device/halves.ts';
import {largestOverWorkgroup} from '../device/largestOverWorkgroup.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {refuseOctets} from '../device/octets.ts';
import type {RowsView} from '../device/rowsView.ts';
import {runShader} from '../device/runShader.ts';
import {type ElementType, numbered, shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {
  buffersOf,
  formatOf,
  type PackedRows,
  type Rows,
  type RowsFormat,
  shapeOf,
  shiftTo,
} from '../products/packRows.ts';

/** Tables of the rotary embedding, `[B or 1, 1, T, D / 2]` float32. */
export interface RotaryTables {
  cos: tf.TensorInfo;
  sin: tf.TensorInfo;
}

/** Rows of some heads. */
interface Part<R extends Rows = Rows> {
  rows: R;
  /** Number of heads in a row. */
  heads: number;
  /** Whether each head is rotated by its position; in the other direction, back. */
  isRotated?: boolean;
  /** Multiplies all numbers. Default 1. */
  factor?: number;
}

/** Sizes that the parts share. */
interface Sizes {
  batch: number;
  length: number;
  headDim: number;
}

/**
 * Splits rows `[B·T, H·D]` of one format into heads `[B, H, T, D]`, all parts in one dispatch. `D` is a multiple of 8.
 *
 * @param parts of the rows from `begin` on, each with its heads: float16, in int32 with two in a word, or float32
 * @param tables needed if a part is rotated
 */
export function splitHeads(
  backend: WebGPUBackend,
  parts: (Part & {to: tf.TensorInfo})[],
  {length, headDim}: Sizes,
  tables?: RotaryTables,
  begin = 0,
): void {
  const [rows] = shapeOf(parts[0].rows);
  const counts = parts.map(({heads}) => rows * heads * (headDim / 8));
  const n = parts.length;
  const given = parts.map(({rows}) => buffersOf(rows));
  refuseOctets('SplitHeads', ...given.map(({x}) => x));
  runShader(backend, {
    shader: splitting(
      parts[0].to.dtype === 'int32',
      formatOf(parts[0].rows),
      parts.map(({isRotated}) => isRotated ?? false),
    ),
    buffers: {
      ...numbered('y', n, (i) => parts[i].to),
      ...numbered('x', n, (i) => given[i].x),
      ...numbered('scales', n, (i) => given[i].scales),
      cosines: tables?.cos,
      sines: tables?.sin,
    },
    uniforms: {
      ...numbered('count', n, (i) => counts[i]),
      ...numbered('heads', n, (i) => parts[i].heads),
      ...numbered('factor', n, (i) => parts[i].factor ?? 1),
      half: headDim / 8,
      begin,
      rows,
      length,
      tableStride: strideOf(tables),
    },
    threads: counts.reduce((sum, count) => sum + count, 0),
  });
}

/**
 * Makes heads `[B, H, T, D]`, float16 in int32 or float32.
 *
 * @param isKept see {@link makeScratch}
 */
export function makeHeads(
  backend: WebGPUBackend,
  heads: number,
  {batch, length, headDim}: Sizes,
  isPacked: boolean,
  isKept = false,
): tf.TensorInfo {
  return isPacked
    ? makeScratch(backend, [batch * heads * length, headDim / 2], 'int32', isKept)
    : makeScratch(backend, [batch, heads, length, headDim], 'float32', isKept);
}

const TABLES = (isRotated: boolean): Record<'cosines' | 'sines', ElementType> => ({
  cosines: isRotated ? 'vec4f' : undefined,
  sines: isRotated ? 'vec4f' : undefined,
});

/** Returns the number of vectors between the tables of two sequences; 0 if all share them. */
const strideOf = (tables: RotaryTables | undefined): number =>
  !tables || tables.cos.shape[0] === 1 ? 0 : tf.util.sizeFromShape(tables.cos.shape.slice(1)) / 4;

const splitting = shader((isPacked: boolean, rows: RowsFormat, areRotated: boolean[]) => {
  const n = areRotated.length;
  return {
    name: 'SplitHeads',
    outputs: numbered('y', n, (): ElementType => (isPacked ? 'vec2u' : 'vec4f')),
    inputs: {
      ...numbered('x', n, (): ElementType => (rows.isPacked ? 'vec2u' : 'vec4f')),
      ...numbered('scales', n, (): ElementType => (rows.hasScales ? 'f32' : undefined)),
      ...TABLES(areRotated.includes(true)),
    },
    uniforms: {
      ...numbered('count', n, () => 'u32'),
      ...numbered('heads', n, () => 'u32'),
      ...numbered('factor', n, () => 'f32'),
      half: 'u32',
      begin: 'u32',
      rows: 'u32',
      length: 'u32',
      tableStride: 'u32',
    },
    workgroup: 256,
    header: HALVES_HEADER,
    globals: HALVES,
    body: `
  var i = flatGroup * WORKGROUP + local;
  ${times(n, (k) => {
    const read = (at: string) => (rows.isPacked ? `widened(x${k}[${at}])` : `x${k}[${at}]`);
    return `if (i < u.count${k}) {
    let c = i % u.half; // a vector of the first half of a head; its partner is in the second
    let row = i / u.half % u.rows;
    let h = i / u.half / u.rows;
    let b = (u.begin + row) / u.length;
    let t = (u.begin + row) % u.length;
    let source = (row * u.heads${k} + h) * 2u * u.half + c;
    let to = ((b * u.heads${k} + h) * u.length + t) * 2u * u.half + c;
    let factor = ${rows.hasScales ? `scales${k}[row] * ` : ''}u.factor${k};
    let first = factor * ${read('source')};
    let second = factor * ${read('source + u.half')};
    ${areRotated[k] ? ROTATED('1.0') : 'let a = first; let z = second;'}
    y${k}[to] = ${isPacked ? 'halved(a)' : 'a'};
    y${k}[to + u.half] = ${isPacked ? 'halved(z)' : 'z'};
    return;
  }
  i -= u.count${k};`;
  })}`,
  };
});

/** WGSL that rotates `first` and `second` of a head at position `t` of sequence `b` to `a` and `z`. */
const ROTATED = (direction: string) => `
  let turn = b * u.tableStride + t * u.half + c;
  let s = ${direction} * sines[turn];
  let a = first * cosines[turn] - second * s;
  let z = second * cosines[turn] + first * s;`;

/**
 * Joins heads `[B, H, T, D]` float32 to packed rows `[B·T, H·D]`, a workgroup per row; all parts in one dispatch if the
 * device binds as many buffers.
 *
 * @param isScaled whether rows are scaled so that their largest magnitude is between 1 and 2
 * @param tables needed if a part is rotated
 * @param isKept see {@link makeScratch}
 */
export function joinHeads(
  backend: WebGPUBackend,
  parts: Part<RowsView>[],
  {batch, length, headDim}: Sizes,
  isScaled: boolean,
  tables?: RotaryTables,
  isKept = false,
): PackedRows[] {
  const n = parts.length;
  if ((isScaled ? 3 : 2) * n + (tables ? 2 : 0) > backend.device.limits.maxStorageBuffersPerShaderStage)
    return parts.flatMap((part) =>
      joinHeads(backend, [part], {batch, length, headDim}, isScaled, tables, isKept),
    );
  const rows = batch * length;
  const made = parts.map(({heads}) => ({
    halves: makeScratch(backend, [rows, (heads * headDim) / 2], 'int32', isKept),
    scales: isScaled ? backend.makeTensorInfo([rows], 'float32') : undefined,
  }));
  runShader(backend, {
    shader: joining(
      isScaled,
      parts.map(({isRotated}) => isRotated ?? false),
    ),
    buffers: {
      ...numbered('halves', n, (i) => made[i].halves),
      ...numbered('scales', n, (i) => made[i].scales),
      ...numbered('x', n, (i) => parts[i].rows),
      cosines: tables?.cos,
      sines: tables?.sin,
    },
    uniforms: {
      ...numbered('heads', n, (i) => parts[i].heads),
      rows,
      half: headDim / 8,
      length,
      tableStride: strideOf(tables),
    },
    workgroups: rows * n,
  });
  return made;
}

const joining = shader((isScaled: boolean, areRotated: boolean[]) => {
  const n = areRotated.length;
  const eachPair = (k: number, body: string) => `
    for (var i = local; i < u.heads${k} * u.half; i += WORKGROUP) {
      let h = i / u.half;
      let c = i % u.half;
      let source = ((b * u.heads${k} + h) * u.length + t) * 2u * u.half + c;
      let first = x${k}[source];
      let second = x${k}[source + u.half];
      ${areRotated[k] ? ROTATED('-1.0') : 'let a = first; let z = second;'}
      ${body}
    }`;
  return {
    name: 'JoinHeads',
    outputs: {
      ...numbered('halves', n, (): ElementType => 'vec2u'),
      ...numbered('scales', n, (): ElementType => (isScaled ? 'f32' : undefined)),
    },
    inputs: {...numbered('x', n, (): ElementType => 'vec4f'), ...TABLES(areRotated.includes(true))},
    uniforms: {
      ...numbered('heads', n, () => 'u32'),
      rows: 'u32',
      half: 'u32',
      length: 'u32',
      tableStride: 'u32',
    },
    workgroup: 128,
    header: HALVES_HEADER,
    globals: `
${HALVES}
${shiftTo(0)}
${largestOverWorkgroup(128)}`,
    body: `
  if (flatGroup >= ${n}u * u.rows) { return; }
  let row = flatGroup % u.rows;
  let b = row / u.length;
  let t = row % u.length;
  var scale = 1.0;
  ${times(
    n,
    (k) => `if (flatGroup / u.rows == ${k}u) {
    ${
      isScaled
        ? `var largest = 0.0;
    ${eachPair(k, 'largest = max(largest, max(largestOf4(a), largestOf4(z)));')}
    let shift = shiftOf(largestOverWorkgroup(largest, local));
    scale = powerOfTwo(shift);
    if (local == 0u) { scales${k}[row] = powerOfTwo(-shift); }`
        : ''
    }
    ${eachPair(
      k,
      `
      let to = (row * u.heads${k} + h) * 2u * u.half + c;
      halves${k}[to] = halved(scale * a);
      halves${k}[to + u.half] = halved(scale * z);`,
    )}
  }`,
  )}`,
  };
});
