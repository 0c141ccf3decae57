import type * as tf from '@tensorflow/tfjs';
import {HALVES} from '../device/halves.ts';
import {quadAt} from '../device/octets.ts';
import type {RowsView} from '../device/rowsView.ts';
import {runShader} from '../device/runShader.ts';
import {times} from '../device/times.ts';
import {capabilitiesOf, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {
  accumulate,
  clearSums,
  declareSums,
  fitted,
  HALF_SUM,
  halfStride,
  type Layout,
  loadLeft,
  MATRIX_HEADER,
  regionOf,
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
 * How a workgroup shares queries. What counts on an H200 is how many workgroups run on a processor at the same time, and so
 * how little workgroup memory each takes: up to 12 KiB, one layer at 1 × 32768 takes 17.1 ms; with 1 KiB more, 19.4 ms.
 */
const FORWARD: Layout = {subgroups: 4, blocks: 2, cols: 16, steps: 1};
/** For heads of more than 64 numbers. */
const FORWARD_WIDE: Layout = {subgroups: 8, blocks: 2, cols: 16, steps: 1};

/** Whether the shaders take heads of this size: they need whole matrices and tiles that fit workgroup memory. */
export const fitsMatrices = (dim: number, length: number): boolean =>
  dim % 16 === 0 && dim <= 128 && length >= 16;

/** Scores are in units of log 2, because the card has `exp2`. */
export const LOG2E = Math.LOG2E;

/** Weights up to 2¹⁵ fit float16. */
const HIGHEST_WEIGHT = 15;

/**
 * Returns the bytes of workgroup memory for two tiles and for what passes between matrices and lanes.
 *
 * @param parts see {@link exchangeOf}
 */
export const memoryOf = (layout: Layout, dim: number, parts = 1): number =>
  16 * (2 * layout.steps * layout.cols * halfStride(dim) + layout.subgroups * parts * regionOf(layout));

/** Returns the number of rows of a workgroup. */
export const rowsOf = ({subgroups, blocks}: Layout): number => 16 * blocks * subgroups;

/**
 * WGSL that passes numbers between a subgroup's matrices and its lanes, in float16, through its rows of `scores`, where
 * one product follows the other. A lane has one of 32 rows, or half of one of 16.
 *
 * Scores are rounded to float16 because this way through workgroup memory limits the speed: in float32, it takes twice
 * the space and time.
 *
 * @param keepsOrder whether a subgroup's accesses of workgroup memory keep their order; otherwise workgroups wait
 * @param parts the largest number of parts of a product
 */
export function exchangeOf(layout: Layout, dim: number, keepsOrder: boolean, parts = 1) {
  const {blocks, cols, subgroups} = layout;
  const stride = halfStride(cols);
  const size = regionOf(layout);
  const shape: Shape = {blocks, cols, dim};
  const perRow = 2 / blocks;
  const width = cols / perRow;
  const at = (step: number) => `${step * cols * halfStride(dim)}u`;
  return {
    ...lanesOf(width, size),
    /** Waits until a subgroup has read and written what comes before. */
    wait: keepsOrder ? '' : 'workgroupBarrier();',
    globals: `${HALF_SUM}
var<workgroup> scores: array<vec4u, ${subgroups * parts * size}>;`,
    declarations: `
  let laneRow = lane % ${16 * blocks}u;
  let part = lane / ${16 * blocks}u * ${width}u; // the lane's first column
  let region = subgroup * ${parts * size}u;
  let mine = region + laneRow * ${stride}u + part / 8u;`,
    /** Multiplies `left · tileᵀ` in a step of the tiles, for `read`; the inner side in `count` parts. */
    multiply: (left: string, tile: string, step: number, count = 1) =>
      times(count, (part) =>
        scoresOf(left, tile, at(step), `region + ${part * size}u`, shape, {part, parts: count}),
      ),
    /** Adds the product of what was written with a tile to `sums`. */
    accumulate: (sums: string, tile: string, step: number) => accumulate(sums, tile, at(step), shape),
    /** Reduces over the lanes of a row. */
    overRow: (reduce: (other: string) => string, value: string) =>
      perRow === 2 ? reduce(`subgroupShuffleXor(${value}, 16u)`) : value,
  };
}

/**
 * WGSL of lanes that have `width` numbers each in a row of `scores`, from the vector `mine` on.
 *
 * @param partSize the vectors between the parts of a product
 */
export function lanesOf(width: number, partSize: number) {
  const vectors = width / 4;
  const pairs = Array.from({length: width / 8}, (_, pair) => pair);
  return {
    /** Number of vectors of four numbers in a lane. */
    vectors,
    /** Declares the lane's vectors `name0` … of the latest product, the sums of its parts. */
    read: (name: string, count = 1, from = 'mine') =>
      pairs
        .map((pair) => {
          const words = (part: number) => `${name}Words${pair}${part}`;
          const sum = (half: string) =>
            Array.from({length: count}, (_, part) => `widened(${words(part)}.${half})`).join(' + ');
          return `
    ${times(count, (part) => `let ${words(part)} = scores[${from} + ${part * partSize + pair}u];`)}
    var ${name}${2 * pair} = ${sum('xy')};
    var ${name}${2 * pair + 1} = ${sum('zw')};`;
        })
        .join(''),
    /** Writes the lane's vectors `name0` …, for `accumulate`. */
    write: (name: string, to = 'mine') =>
      pairs
        .map(
          (pair) =>
            `scores[${to} + ${pair}u] = vec4u(halved(${name}${2 * pair}), halved(${name}${2 * pair + 1}));`,
        )
        .join('\n'),
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
  };
}

/**
 * `Attention` by subgroup matrices: float16 operands and scores, float32 sums. Weights are powers of two relative to a reference
 * of each query, the highest score of its first keys. Sums in registers cannot be scaled row by row. So if a weight
 * does not fit float16, which is rare, the workgroup starts again, relative to the highest score of all.
 */
export function matrixAttention(backend: WebGPUBackend, call: AttentionCall): tf.TensorInfo[] {
  const y = backend.makeTensorInfo(call.inputs.query.shape, 'float32');
  return [y, attendInto(backend, call, y)];
}

/**
 * {@link matrixAttention} into a tensor: float32 `[B, H, T, D]`, or float16 rows `[B·T, H·D]`, which may be in octets.
 * Returns the logarithms of the sums.
 */
export function attendInto(backend: WebGPUBackend, call: AttentionCall, y: RowsView): tf.TensorInfo {
  const {inputs} = call;
  const {query, segments} = inputs;
  const [batch, heads, length, dim] = query.shape;
  const {keepsOrder} = capabilitiesOf(backend);
  const layout = fitted(
    backend,
    dim > 64 ? FORWARD_WIDE : FORWARD,
    (tried) => memoryOf(tried, dim) + 4 * rowsOf(tried) + 16,
  );
  const logSums = backend.makeTensorInfo([batch, heads, length], 'float32');
  const packed = packHeads(backend, call);
  runShader(backend, {
    shader: forward(kindOf(call), layout, keepsOrder, {
      quads: y.dtype === 'int32' ? (heads * dim) / 4 : 0,
      inOctets: y.inOctets ?? false,
    }),
    buffers: {y, logSums, query: packed[0], key: packed[1], value: packed[2], segments},
    uniforms: uniformsOf(call),
    workgroups: [batch * heads, Math.ceil(length / rowsOf(layout))],
  });
  for (const {dataId} of packed) backend.disposeData(dataId);
  return logSums;
}

/**
 * Returns query, times its factor, key and value as float16, to be disposed. Those that are int32 `[B, H, T, D]` are
 * packed already, the query with its factor: `scale · LOG2E`.
 *
 * Keys are packed relative to the first one of their head, which changes all scores of a query by the same number, and so
 * no weight and no gradient, unless scores are bounded. Otherwise what keys have in common, as where they have a large
 * bias, would leave few bits of a rounded score for what tells them apart.
 */
export function packHeads(backend: WebGPUBackend, {inputs, attrs}: AttentionCall): tf.TensorInfo[] {
  const {query, key, value} = inputs;
  if (query.dtype === 'int32') {
    for (const {dataId} of [query, key, value]) backend.incRef(dataId);
    return [query, key, value];
  }
  return packHalves(backend, [
    {x: query, factor: attrs.scale * LOG2E},
    {x: key, isRelative: attrs.softCap === 0},
    {x: value},
  ]);
}

/** How results are stored: as rows of so many vectors, or by head if these are 0. */
interface ResultRows {
  quads: number;
  inOctets: boolean;
}

const forward = attentionShader(
  (kind, layout: Layout, keepsOrder: boolean, {quads, inOctets}: ResultRows) => {
    const {dim} = kind;
    const {blocks} = layout;
    const {shape, rows, threads, exchange, ...keys} = overKeys(kind, layout, keepsOrder);
    const {overRow, vectors} = exchange;
    const largestOf = (values: string[]) => values.reduce((a, b) => `max(${a}, ${b})`);
    const names = Array.from({length: vectors}, (_, i) => `score${i}`);
    return {
      name: 'MatrixAttention',
      outputs: {y: quads > 0 ? 'vec2u' : 'vec4f', logSums: 'f32'},
      inputs: {query: 'vec4u', key: 'vec4u', value: 'vec4u'},
      workgroup: threads,
      header: MATRIX_HEADER,
      globals: `${HALVES}
${keys.globals}
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
  ${keys.registers}
  for (var round = 0u; round < 2u; round++) {
    total = 0.0;
    ${clearSums('out', blocks, dim)}
    ${keys.throughTiles(
      (step) => `
        ${exchange.multiply('q', 'tileK', step)}
        ${exchange.wait}
        ${exchange.read('score')}
        ${exchange.bound(kind)}
        ${keys.hide}
        let four = ${largestOf(names)};
        var top = ${largestOf(['x', 'y', 'z', 'w'].map((e) => `four.${e}`))};
        top = ${overRow((other) => `max(top, ${other})`, 'top')};
        highest = max(highest, top);
        if (reference == -1.0e30) { reference = highest; }
        if (top > reference + ${HIGHEST_WEIGHT}.0) { isAbove.x = 1u; }
        ${times(vectors, (i) => `score${i} = exp2(score${i} - reference); total += dot(score${i}, vec4f(1.0));`)}
        ${exchange.write('score')}
        ${exchange.wait}
        ${exchange.accumulate('out', 'tileV', step)}
        ${exchange.wait}`,
    )}
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
  ${writeSums(
    'out',
    shape,
    `if (firstRow + r < u.length) {
        let result = sum * inverses[subgroup * ${16 * blocks}u + r];
        ${
          quads > 0
            ? `let token = head / u.heads * u.length + firstRow + r;
        y[${quadAt('token', 'head % u.heads * V + col', quads, inOctets)}] = halved(result);`
            : 'y[(rowOfHead + firstRow + r) * V + col] = result;'
        }
      }`,
  )}`,
    };
  },
);

/** WGSL of the shaders in which a workgroup has rows of queries and goes through the keys that they see, by tiles. */
export function overKeys(kind: AttentionKind, layout: Layout, keepsOrder: boolean, parts = 1) {
  const {dim} = kind;
  const {subgroups, blocks, cols, steps} = layout;
  const shape: Shape = {blocks, dim, cols};
  const rows = rowsOf(layout);
  const threads = 32 * subgroups;
  const size = steps * cols;
  const exchange = exchangeOf(layout, dim, keepsOrder, parts);
  const keys = tileOf('tileK', 'key', {rows: size, dim, threads});
  const values = tileOf('tileV', 'value', {rows: size, dim, threads});
  const load = (from: string) => keys.load(from, 'source', 'end') + values.load(from, 'source', 'end');
  return {
    shape,
    rows,
    threads,
    exchange,
    globals: `
var<workgroup> tileK: array<vec4u, ${size * halfStride(dim)}>;
var<workgroup> tileV: array<vec4u, ${size * halfStride(dim)}>;
${exchange.globals}`,
    /** Declares the workgroup's and the subgroup's place, and each lane's query `t`. */
    place: `
  let head = group.x;
  let first = (groups.y - 1u - group.y) * ${rows}u; // the longest of all heads first
  let source = sourceOf(head);
  let rowOfHead = head * u.length;
  ${exchange.declarations}
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
    /** Declares what {@link throughTiles} needs. */
    registers: keys.registers + values.registers,
    /** Goes through the tiles; `body` is WGSL for `cols` keys from `s0` on, in a step of the tiles. */
    throughTiles: (body: (step: number) => string) => `
  ${load('begin')}
  for (var s1 = begin; s1 < end; s1 += ${size}u) {
    ${keys.store()}
    ${values.store()}
    workgroupBarrier();
    if (s1 + ${size}u < end) { // the next tiles arrive while these are used
      ${load(`(s1 + ${size}u)`)}
    }
    ${times(
      steps,
      (step) => `{
      let s0 = s1 + ${step * cols}u;
      ${keepsOrder ? 'if (s0 < ownEnd) {' : '{'}
        ${body(step)}
      }
    }`,
    )}
    workgroupBarrier();
  }`,
    /** Hides those scores of the tile from `s0` on that the lane's query does not see. */
    hide: `
    if (${isPartial(kind, cols)}) {
      let s = s0 + part;
      ${exchange.hide((column) => `(s + ${column} >= end) | !isVisible(head, t, s + ${column}, segment)`)}
    }`,
  };
}

/** Returns WGSL for whether some query of the subgroup may not see some key of the tile from `s0` on. */
function isPartial({causal, hasSegments, hasWindow}: AttentionKind, cols: number): string {
  if (hasSegments || hasWindow) return 'true';
  const isPastEnd = `s0 + ${cols}u > end`;
  return causal ? `${isPastEnd} || s0 + ${cols - 1}u > firstRow + u.past` : isPastEnd;
}
