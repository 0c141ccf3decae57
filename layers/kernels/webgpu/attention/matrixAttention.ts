import type * as tf from '@tensorflow/tfjs';
import {HALVES} from '../device/halves.ts';
import {runShader} from '../device/runShader.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {
  accumulate,
  clearSums,
  declareSums,
  fitted,
  floatStride,
  halfStride,
  type Layout,
  loadLeft,
  MATRIX_HEADER,
  type Shape,
  scoresOf,
  tileOf,
  writeSums,
} from '../products/matrixTiles.ts';
import {
  type AttentionCall,
  type AttentionKind,
  attentionShader,
  endOfKeys,
  kindOf,
  startOfKeys,
  uniformsOf,
} from './attentionShader.ts';
import {packHalves} from './packHalves.ts';

/**
 * Number of subgroups in a workgroup, of blocks of 16 queries in each, and of keys in a tile. On an H200, what counts is
 * how many rows fit a processor, so small tiles win: 158 TFLOP/s with 16 keys, 93 with 32.
 */
export const FORWARD: Layout = {subgroups: 4, blocks: 2, cols: 16};
/** For heads of more than 64 numbers, whose sums fill the registers. */
export const FORWARD_WIDE: Layout = {subgroups: 8, blocks: 1, cols: 32};

/** Whether the shaders take heads of this size: they need whole matrices and tiles that fit workgroup memory. */
export const fitsMatrices = (dim: number, length: number): boolean =>
  dim % 16 === 0 && dim <= 128 && length >= 16;

/** Scores are in units of log 2, because the card has `exp2`. */
export const LOG2E = Math.LOG2E;

/** Weights up to 2¹⁵ fit float16. */
const HIGHEST_WEIGHT = 15;

/**
 * Returns the bytes of workgroup memory.
 *
 * @param tiles number of tiles of `cols` packed rows
 * @param floats number of float32 matrices of scores, and `halves` of weights in float16
 */
export const memoryOf = (
  layout: Layout,
  dim: number,
  {tiles, floats, halves}: Record<'tiles' | 'floats' | 'halves', number>,
): number =>
  16 *
  (tiles * layout.cols * halfStride(dim) +
    rowsOf(layout) * (floats * floatStride(layout.cols) + halves * halfStride(layout.cols)));

/** Returns the number of rows of a workgroup. */
export const rowsOf = ({subgroups, blocks}: Layout): number => 16 * blocks * subgroups;

/**
 * WGSL that finds a lane's own elements of the subgroup's rows; with 16 rows, two lanes share one.
 *
 * @param weightStride vectors between the rows of weights
 */
export function lanesOf({blocks, cols}: Pick<Shape, 'blocks' | 'cols'>, weightStride = halfStride(cols)) {
  const perRow = 2 / blocks;
  const width = cols / perRow;
  const vectors = width / 4;
  return {
    /** Number of vectors of four scores in a lane. */
    vectors,
    declarations: `
  let laneRow = lane / ${perRow}u;
  let part = (lane % ${perRow}u) * ${width}u; // the lane's first column
  let region = subgroup * ${16 * blocks * floatStride(cols)}u;
  let weightRegion = subgroup * ${16 * blocks * weightStride}u;
  let mine = region + laneRow * ${floatStride(cols)}u + part / 4u;
  let weightAt = weightRegion + laneRow * ${weightStride}u + part / 8u;`,
    /** Declares the lane's scores `name0` …, vectors, from index `from` on. */
    read: (name: string, from: string) =>
      times(vectors, (i) => `var ${name}${i} = bitcast<vec4f>(scores[${from} + ${i}u]);`),
    /** Writes the vectors `name0` … as the lane's row of `weights`, float16, `after` vectors further on. */
    pack: (weights: string, name: string, after = 0) =>
      times(
        vectors / 2,
        (i) =>
          `${weights}[weightAt + ${after + i}u] = vec4u(halved(${name}${2 * i}), halved(${name}${2 * i + 1}));`,
      ),
    /** Bounds the lane's scores, if they have a bound. */
    bound: ({isCapped}: AttentionKind) =>
      isCapped ? times(vectors, (i) => `score${i} = capped(score${i}, u.softCap * ${LOG2E});`) : '',
    /** Hides those scores of the lane for whose column `isHidden(column)`. */
    hide: (isHidden: (column: string) => string) =>
      times(
        vectors,
        (i) =>
          `score${i} = select(score${i}, vec4f(-3.0e38), vec4<bool>(${[0, 1, 2, 3].map((e) => isHidden(`${4 * i + e}u`)).join(', ')}));`,
      ),
    /** Reduces over the lanes of a row. */
    overRow: (reduce: (other: string) => string, value: string) =>
      perRow === 2 ? reduce(`subgroupShuffleXor(${value}, 1u)`) : value,
  };
}

/**
 * `Attention` by subgroup matrices: float16 operands, float32 sums. Weights are powers of two relative to a reference
 * of each query, the highest score of its first keys. Sums in registers cannot be scaled row by row. So if a weight
 * does not fit float16, which is rare, the workgroup starts again, relative to the highest score of all.
 */
export function matrixAttention(backend: WebGPUBackend, call: AttentionCall): tf.TensorInfo[] {
  const {inputs} = call;
  const {query, segments} = inputs;
  const [batch, heads, length, dim] = query.shape;
  const layout = fitted(
    backend,
    dim > 64 ? FORWARD_WIDE : FORWARD,
    dim,
    (tried) => memoryOf(tried, dim, {tiles: 2, floats: 1, halves: 1}) + 4 * rowsOf(tried) + 16,
  );
  const y = backend.makeTensorInfo(query.shape, 'float32');
  const logSums = backend.makeTensorInfo([batch, heads, length], 'float32');
  const packed = packHeads(backend, call);
  runShader(backend, {
    shader: forward(kindOf(call), layout),
    buffers: {y, logSums, query: packed[0], key: packed[1], value: packed[2], segments},
    uniforms: uniformsOf(call),
    workgroups: [Math.ceil(length / rowsOf(layout)), batch * heads],
  });
  for (const {dataId} of packed) backend.disposeData(dataId);
  return [y, logSums];
}

/**
 * Returns query, times its factor, key and value as float16, to be disposed. Those that are int32 `[B, H, T, D]` are
 * packed already, the query with its factor: `scale · LOG2E`.
 */
export function packHeads(backend: WebGPUBackend, {inputs, attrs}: AttentionCall): tf.TensorInfo[] {
  const {query, key, value} = inputs;
  if (query.dtype === 'int32') {
    for (const {dataId} of [query, key, value]) backend.incRef(dataId);
    return [query, key, value];
  }
  return packHalves(backend, [
    [query, attrs.scale * LOG2E],
    [key, 1],
    [value, 1],
  ]);
}

const forward = attentionShader((kind, layout: Layout) => {
  const {dim} = kind;
  const {blocks, cols} = layout;
  const {shape, rows, threads, ...keys} = overKeys(kind, layout);
  const {vectors, pack, read, overRow} = lanesOf(layout);
  const [keyTile, valueTile] = keys.tilesOf();
  const weights = {array: 'weights', from: 'weightRegion', stride: halfStride(cols)};
  const largestOf = (values: string[]) => values.reduce((a, b) => `max(${a}, ${b})`);
  const names = Array.from({length: vectors}, (_, i) => `score${i}`);
  return {
    name: 'MatrixAttention',
    outputs: {y: 'vec4f', logSums: 'f32'},
    inputs: {query: 'vec4u', key: 'vec4u', value: 'vec4u'},
    workgroup: threads,
    header: MATRIX_HEADER,
    globals: `${HALVES}
${keys.tiles}
var<workgroup> scores: array<vec4u, ${rows * floatStride(cols)}>;
var<workgroup> weights: array<vec4u, ${rows * halfStride(cols)}>;
var<workgroup> inverses: array<f32, ${rows}>;
var<workgroup> isAbove: vec4u; // x: a weight does not fit float16`,
    body: `
  ${keys.place}
  ${keys.segment}
  ${keys.loadRows('q', 'query')}
  ${declareSums('out', blocks, dim)}
  ${keys.end}
  var reference = -1.0e30;
  var highest = -1.0e30;
  var total = 0.0;
  ${keyTile.registers}
  ${valueTile.registers}
  for (var round = 0u; round < 2u; round++) {
    total = 0.0;
    ${clearSums('out', blocks, dim)}
    ${keys.load(keyTile, 'begin')}
    ${keys.load(valueTile, 'begin')}
    ${keyTile.store()}
    ${keys.load(keyTile, `(begin + ${cols}u)`)}
    workgroupBarrier();
    ${scoresOf('q', 'tileK', '0u', 'region', shape)}
    workgroupBarrier();
    for (var s0 = begin; s0 < end; s0 += ${cols}u) {
      // While one tile's weights are computed, the next tiles arrive; then come the products.
      if (s0 < ownEnd) {
        ${read('score', 'mine')}
        ${keys.bound}
        ${keys.hide}
        let four = ${largestOf(names)};
        var top = ${largestOf(['x', 'y', 'z', 'w'].map((e) => `four.${e}`))};
        top = ${overRow((other) => `max(top, ${other})`, 'top')};
        highest = max(highest, top);
        if (reference == -1.0e30) { reference = highest; }
        if (top > reference + ${HIGHEST_WEIGHT}.0) { isAbove.x = 1u; }
        ${times(vectors, (i) => `score${i} = exp2(score${i} - reference); total += dot(score${i}, vec4f(1.0));`)}
        ${pack('weights', 'score')}
      }
      ${valueTile.store()}
      ${keyTile.store()}
      if (s0 + ${cols}u < end) {
        ${keys.load(valueTile, `(s0 + ${cols}u)`)}
        ${keys.load(keyTile, `(s0 + ${2 * cols}u)`)}
      }
      workgroupBarrier();
      if (s0 < ownEnd) {
        ${accumulate('out', weights, 'tileV', '0u', shape)}
        if (s0 + ${cols}u < ownEnd) {
          ${scoresOf('q', 'tileK', '0u', 'region', shape)}
        }
      }
      workgroupBarrier();
    }
    if (workgroupUniformLoad(&isAbove).x == 0u) { break; }
    reference = highest;
    isAbove.x = 0u;
  }
  total = ${overRow((other) => `total + ${other}`, 'total')};
  let sees = total > 0.0;
  if (part == 0u) {
    if (t < u.length) {
      logSums[rowOfHead + t] = select(3.0e38, (reference + log2(total)) * ${Math.LN2}, sees); // 3e38: sees nothing
    }
    inverses[subgroup * ${16 * blocks}u + laneRow] = select(0.0, 1.0 / total, sees);
  }
  workgroupBarrier();
  ${writeSums('out', shape, `if (firstRow + r < u.length) { y[(rowOfHead + firstRow + r) * V + col] = sum * inverses[subgroup * ${16 * blocks}u + r]; }`)}`,
  };
});

/** WGSL of the shaders in which a workgroup has rows of queries and goes through the keys that they see, by tiles. */
export function overKeys(
  kind: AttentionKind,
  layout: Layout,
  {tileRows = layout.cols, weightStride = halfStride(layout.cols)} = {},
) {
  const {dim} = kind;
  const {subgroups, blocks, cols} = layout;
  const shape: Shape = {blocks, dim, cols};
  const rows = rowsOf(layout);
  const threads = 32 * subgroups;
  const {declarations, hide, bound} = lanesOf(shape, weightStride);
  return {
    shape,
    rows,
    threads,
    /** The tiles of keys and of values. */
    tilesOf: () => [
      tileOf('tileK', 'key', {rows: tileRows, dim, threads}),
      tileOf('tileV', 'value', {rows: tileRows, dim, threads}),
    ],
    /** Declares their arrays. */
    tiles: `
var<workgroup> tileK: array<vec4u, ${tileRows * halfStride(dim)}>;
var<workgroup> tileV: array<vec4u, ${tileRows * halfStride(dim)}>;`,
    /** Declares the workgroup's and the subgroup's place, and each lane's query `t`. */
    place: `
  let first = (groups.x - 1u - group.x) * ${rows}u; // the longest first
  let head = group.y;
  let source = sourceOf(head);
  let rowOfHead = head * u.length;
  ${declarations}
  let firstRow = first + subgroup * ${16 * blocks}u;
  let t = firstRow + laneRow;`,
    segment: 'let segment = segmentOf(head, min(t, u.length - 1u) + u.past);',
    /** Loads the subgroup's rows of `from` as the left operand of products. */
    loadRows: (name: string, from: string) =>
      loadLeft(name, from, {base: 'rowOfHead', first: 'firstRow', limit: 'u.length'}, shape),
    /** Declares the first key that a query of the workgroup may see, and the first after the last, also of the subgroup. */
    end: `
  let begin = ${startOfKeys(kind, 'first', cols)};
  let end = ${endOfKeys(kind, 'first', rows)};
  let ownEnd = ${endOfKeys(kind, 'firstRow', 16 * blocks)};`,
    load: (tile: ReturnType<typeof tileOf>, from: string) => tile.load(from, 'source', 'end'),
    /** Bounds the lane's scores, if they have a bound. */
    bound: bound(kind),
    /** Hides those scores of the tile from `s0` on that the lane's query does not see. */
    hide: `
    if (${isPartial(kind, cols)}) {
      let s = s0 + part;
      ${hide((column) => `(s + ${column} >= end) | !isVisible(head, t, s + ${column}, segment)`)}
    }`,
  };
}

/** Returns WGSL for whether some query of the subgroup may not see some key of the tile from `s0` on. */
function isPartial({causal, hasSegments, hasWindow}: AttentionKind, cols: number): string {
  if (hasSegments || hasWindow) return 'true';
  const isPastEnd = `s0 + ${cols}u > end`;
  return causal ? `${isPastEnd} || s0 + ${cols - 1}u > firstRow + u.past` : isPastEnd;
}
