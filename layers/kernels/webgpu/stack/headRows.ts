import * as tf from '@tensorflow/tfjs';
import {HALVES, HALVES_HEADER} from '../device/halves.ts';
import {largestOverWorkgroup} from '../device/largestOverWorkgroup.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {makeHalves, quadAt} from '../device/octets.ts';
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
  sharedRows,
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

/** How a shader finds the vectors of a part. */
interface PartFormat {
  isRotated: boolean;
  /** Vectors of four numbers in a row. */
  quads: number;
}

const partFormatOf = ({heads, isRotated = false}: Part, headDim: number): PartFormat => ({
  isRotated,
  quads: (heads * headDim) / 4,
});

/** WGSL of the indices in rows of vector `c` of head `h`, and of its partner in the second half of the head. */
const pairAt = (quads: number, inOctets: boolean): [string, string] => [
  quadAt('row', '2u * u.half * h + c', quads, inOctets),
  quadAt('row', '2u * u.half * h + u.half + c', quads, inOctets),
];

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
  runShader(backend, {
    shader: splitting(
      parts[0].to.dtype === 'int32',
      formatOf(parts[0].rows),
      parts.map((part) => partFormatOf(part, headDim)),
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

const splitting = shader((isPacked: boolean, rows: RowsFormat, parts: PartFormat[]) => {
  const n = parts.length;
  return {
    name: 'SplitHeads',
    outputs: numbered('y', n, (): ElementType => (isPacked ? 'vec2u' : 'vec4f')),
    inputs: {
      ...numbered('x', n, (): ElementType => (rows.isPacked ? 'vec2u' : 'vec4f')),
      ...numbered('scales', n, (): ElementType => (rows.hasScales ? 'f32' : undefined)),
      ...TABLES(parts.some(({isRotated}) => isRotated)),
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
    const {isRotated, quads} = parts[k];
    const [first, second] = pairAt(quads, rows.inOctets).map((at) =>
      rows.isPacked ? `widened(x${k}[${at}])` : `x${k}[${at}]`,
    );
    return `if (i < u.count${k}) {
    let c = i % u.half; // a vector of the first half of a head; its partner is in the second
    let row = i / u.half % u.rows;
    let h = i / u.half / u.rows;
    let b = (u.begin + row) / u.length;
    let t = (u.begin + row) % u.length;
    let to = ((b * u.heads${k} + h) * u.length + t) * 2u * u.half + c;
    let factor = ${rows.hasScales ? `scales${k}[row] * ` : ''}u.factor${k};
    let first = factor * ${first};
    let second = factor * ${second};
    ${isRotated ? ROTATED('1.0') : 'let a = first; let z = second;'}
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
 * Joins heads `[B, H, T, D]`, float32 or packed, to packed rows `[B·T, H·D]`, a workgroup per row, or for a few rows in octets; all
 * parts in one dispatch if the device binds as many buffers.
 *
 * @param isScaled whether rows are scaled so that their largest magnitude is between 1 and 2. Default false
 * @param inOctets how the rows are stored; see device/octets.ts. Default row by row
 * @param tables needed if a part is rotated
 * @param isKept see {@link makeScratch}
 */
export function joinHeads(
  backend: WebGPUBackend,
  parts: Part[],
  sizes: Sizes,
  options: {isScaled?: boolean; inOctets?: boolean; tables?: RotaryTables; isKept?: boolean},
): PackedRows[] {
  const {batch, length, headDim} = sizes;
  const {isScaled = false, inOctets = false, tables, isKept} = options;
  const n = parts.length;
  const given = parts.map(({rows}) => buffersOf(rows));
  const scaled = given.filter(({scales}) => scales !== undefined).length;
  const buffers = (isScaled ? 3 : 2) * n + scaled + (tables ? 2 : 0);
  if (n > 1 && buffers > backend.device.limits.maxStorageBuffersPerShaderStage)
    return parts.flatMap((part) => joinHeads(backend, [part], sizes, options));
  const rows = batch * length;
  const made = parts.map(({heads}) => ({
    halves: makeHalves(backend, rows, heads * headDim, {inOctets, isKept}),
    scales: isScaled ? backend.makeTensorInfo([rows], 'float32') : undefined,
  }));
  const groups = Math.ceil(rows / sharedRows(inOctets));
  runShader(backend, {
    shader: joining(
      isScaled,
      inOctets,
      parts.map((part) => ({...partFormatOf(part, headDim), ...formatOf(part.rows)})),
    ),
    buffers: {
      ...numbered('halves', n, (i) => made[i].halves),
      ...numbered('scales', n, (i) => made[i].scales),
      ...numbered('x', n, (i) => given[i].x),
      ...numbered('factors', n, (i) => given[i].scales),
      cosines: tables?.cos,
      sines: tables?.sin,
    },
    uniforms: {
      ...numbered('heads', n, (i) => parts[i].heads),
      rows,
      groups,
      half: headDim / 8,
      length,
      tableStride: strideOf(tables),
    },
    workgroups: groups * n,
  });
  return made;
}

const joining = shader((isScaled: boolean, inOctets: boolean, parts: (PartFormat & RowsFormat)[]) => {
  const n = parts.length;
  const shared = sharedRows(inOctets);
  const threads = inOctets ? 256 : 128;
  const read = (k: number, at: string) => {
    const {isPacked, hasScales} = parts[k];
    return `${hasScales ? `factors${k}[place] * ` : ''}${isPacked ? `widened(x${k}[${at}])` : `x${k}[${at}]`}`;
  };
  const eachPair = (k: number, body: string) => `
    for (var i = local / ${shared}u; i < u.heads${k} * u.half; i += WORKGROUP / ${shared}u) {
      let h = i / u.half;
      let c = i % u.half;
      let place = (b * u.heads${k} + h) * u.length + t;
      let source = place * 2u * u.half + c;
      let first = ${read(k, 'source')};
      let second = ${read(k, 'source + u.half')};
      ${parts[k].isRotated ? ROTATED('-1.0') : 'let a = first; let z = second;'}
      ${body}
    }`;
  return {
    name: 'JoinHeads',
    outputs: {
      ...numbered('halves', n, (): ElementType => 'vec2u'),
      ...numbered('scales', n, (): ElementType => (isScaled ? 'f32' : undefined)),
    },
    inputs: {
      ...numbered('x', n, (k): ElementType => (parts[k].isPacked ? 'vec2u' : 'vec4f')),
      ...numbered('factors', n, (k): ElementType => (parts[k].hasScales ? 'f32' : undefined)),
      ...TABLES(parts.some(({isRotated}) => isRotated)),
    },
    uniforms: {
      ...numbered('heads', n, () => 'u32'),
      rows: 'u32',
      groups: 'u32',
      half: 'u32',
      length: 'u32',
      tableStride: 'u32',
    },
    workgroup: threads,
    header: HALVES_HEADER,
    globals: `
${HALVES}
${shiftTo(0)}
${largestOverWorkgroup(threads, shared)}`,
    body: `
  if (flatGroup >= ${n}u * u.groups) { return; }
  let row = min(flatGroup % u.groups * ${shared}u + local % ${shared}u, u.rows - 1u);
  let b = row / u.length;
  let t = row % u.length;
  var scale = 1.0;
  ${times(
    n,
    (k) => `if (flatGroup / u.groups == ${k}u) {
    ${
      isScaled
        ? `var largest = 0.0;
    ${eachPair(k, 'largest = max(largest, max(largestOf4(a), largestOf4(z)));')}
    let shift = shiftOf(largestOverWorkgroup(largest, local));
    scale = powerOfTwo(shift);
    if (local < ${shared}u) { scales${k}[row] = powerOfTwo(-shift); }`
        : ''
    }
    ${eachPair(
      k,
      `
      halves${k}[${pairAt(parts[k].quads, inOctets)[0]}] = halved(scale * a);
      halves${k}[${pairAt(parts[k].quads, inOctets)[1]}] = halved(scale * z);`,
    )}
  }`,
  )}`,
  };
});
