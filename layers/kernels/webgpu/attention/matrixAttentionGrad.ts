import type * as tf from '@tensorflow/tfjs';
import {HALVES} from '../device/halves.ts';
import {runShader} from '../device/runShader.ts';
import {typed} from '../device/shader.ts';
import {times} from '../device/times.ts';
import {capabilitiesOf, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {
  accumulate,
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
  type AttentionGradCall,
  type AttentionKind,
  attentionShader,
  endOfQueries,
  kindOf,
  uniformsOf,
} from './attentionShader.ts';
import {LOG2E, lanesOf, memoryOf, overKeys, packHeads, rowsOf} from './matrixAttention.ts';
import {largestOf, type PackedSlopes, packSlopes} from './packSlopes.ts';

/**
 * For the gradient of the query, rows are queries and columns keys; for those of key and value, it is the other way
 * round. An H200's processor runs workgroups of 48 KiB together, so what counts is how little memory each takes: of
 * this one, 19 KiB for heads of 64, two run there.
 */
export const GRADIENT: Layout = {subgroups: 4, blocks: 2, cols: 16};
/** Tiles have this many times as many rows as are multiplied at a time, and there are two. */
const STEPS = 2;
const TILES = 2 * STEPS;

/** The operands of both shaders: packed rows, and the scales of the slopes' rows. */
interface Operands {
  query: tf.TensorInfo;
  key: tf.TensorInfo;
  value: tf.TensorInfo;
  slopes: tf.TensorInfo;
  logSums: tf.TensorInfo;
  along: tf.TensorInfo;
  scales: tf.TensorInfo;
  largest: tf.TensorInfo;
}

/**
 * Gradients of query, key and value by subgroup matrices. The incoming gradient is scaled row by row for float16; where
 * rows are added up, each counts with its scale over the largest one. Weights are computed again from the logarithms of
 * their sums.
 */
export function matrixAttentionGrad(backend: WebGPUBackend, call: AttentionGradCall): tf.TensorInfo[] {
  const {dy, y, extra0: logSums} = call.inputs;
  backend.incRef(logSums.dataId);
  const operands = gradOperands(backend, call, packSlopes(backend, dy, y), logSums);
  const gradients = [gradQuery(backend, call, operands), ...gradKeyValue(backend, call, operands)];
  for (const {dataId} of Object.values(operands)) backend.disposeData(dataId);
  return gradients;
}

/** Returns what {@link gradQuery} and {@link gradKeyValue} take, to be disposed, with the slopes and `logSums`. */
export function gradOperands(
  backend: WebGPUBackend,
  call: AttentionCall,
  {halves: slopes, scales, along}: PackedSlopes,
  logSums: tf.TensorInfo,
): Operands {
  const [query, key, value] = packHeads(backend, call);
  return {query, key, value, slopes, logSums, along, scales, largest: largestOf(backend, scales)};
}

export function gradQuery(backend: WebGPUBackend, call: AttentionCall, operands: Operands): tf.TensorInfo {
  const {query, segments} = call.inputs;
  const [batch, heads, length, dim] = query.shape;
  const {keepsOrder} = capabilitiesOf(backend);
  const layout = fitted(backend, GRADIENT, dim, (tried) =>
    memoryOf(tried, dim, {tiles: TILES, ...exchangesOf(keepsOrder, 1)}),
  );
  const dQuery = backend.makeTensorInfo(query.shape, 'float32');
  runShader(backend, {
    shader: backwardQuery(kindOf(call), layout, keepsOrder),
    buffers: {dQuery, segments, ...operands},
    uniforms: uniformsOf(call),
    workgroups: [Math.ceil(length / rowsOf(layout)), batch * heads],
  });
  return dQuery;
}

const PACKED = typed(['query', 'key', 'value', 'slopes'], 'vec4u');

/** WGSL of four changes of scores, within float16's range. */
const changes = (weight: string, slope: string, along: string, factor: string): string =>
  `clamp(${weight} * (${slope} - ${along})${factor}, vec4f(-65504.0), vec4f(65504.0))`;

/** WGSL for the factor on the slopes of four bounded scores; see `slopeOfBound`. */
const factorOf = ({isCapped}: AttentionKind, scores: string): string =>
  isCapped ? ` * slopeOfCap(${scores}, u.softCap * ${LOG2E})` : '';

/**
 * What passes between matrices and lanes: scores, slopes, and `weights` kinds of weights. If a subgroup's accesses of
 * workgroup memory keep their order, they follow each other in one place. Otherwise each has its own, and workgroups wait.
 *
 * @returns the number of matrices of each type, for `memoryOf`
 */
const exchangesOf = (keepsOrder: boolean, weights: number) =>
  keepsOrder ? {floats: 1, halves: 0} : {floats: 2, halves: weights};

/**
 * The places of {@link exchangesOf}, and WGSL that goes through them.
 *
 * @param rows number of rows of a workgroup
 * @param count number of kinds of weights
 */
function exchangeOf({blocks, dim, cols}: Shape, rows: number, keepsOrder: boolean, count: number) {
  const floats = rows * floatStride(cols);
  const stride = keepsOrder ? floatStride(cols) : halfStride(cols);
  const array = keepsOrder ? 'scores' : 'weights';
  const apart = keepsOrder ? cols / 8 : rows * stride;
  const wait = keepsOrder ? '' : 'workgroupBarrier();';
  const {read, pack} = lanesOf({blocks, cols}, stride);
  const shape = {blocks, dim, cols};
  const at = (step: number) => `${step * cols * halfStride(dim)}u`;
  const slopesAt = keepsOrder ? 0 : floats;
  return {
    stride,
    globals: keepsOrder
      ? `var<workgroup> scores: array<vec4u, ${floats}>; // then slopes, then weights`
      : `var<workgroup> scores: array<vec4u, ${2 * floats}>; // then slopes
var<workgroup> weights: array<vec4u, ${count * rows * stride}>;`,
    /** Computes the lane's scores, `left · tileᵀ` of the first pair, and slopes, of the second, in a step of the tiles. */
    scores: (step: number, ...pairs: [left: string, tile: string][]) => {
      const [scores, slopes] = pairs.map(([left, tile], i) =>
        scoresOf(left, tile, at(step), `region + ${i * slopesAt}u`, shape),
      );
      const readScores = read('score', 'mine');
      const readSlopes = read('slope', `mine + ${slopesAt}u`);
      const inTurn = keepsOrder ? [scores, readScores, slopes] : [scores, slopes, wait, readScores];
      return [...inTurn, readSlopes].join('\n');
    },
    /** Makes weights of the lanes' vectors of these names, the first kind and the second. */
    pack: (...names: string[]) =>
      `${names.map((name, i) => pack(array, name, i * apart)).join('\n')}\n${wait}`,
    /** Adds the products of weights of a kind with a tile to `name`. */
    accumulate: (step: number, name: string, kind: number, tile: string) =>
      accumulate(name, {array, from: `weightRegion + ${kind * apart}u`, stride}, tile, at(step), shape),
  };
}

const backwardQuery = attentionShader((kind, layout: Layout, keepsOrder: boolean) => {
  const {dim} = kind;
  const {blocks, cols} = layout;
  const rows = rowsOf(layout);
  const exchange = exchangeOf({blocks, dim, cols}, rows, keepsOrder, 1);
  const {shape, threads, ...keys} = overKeys(kind, layout, {
    tileRows: STEPS * cols,
    weightStride: exchange.stride,
  });
  const {vectors} = lanesOf(layout);
  const [keyTile, valueTile] = keys.tilesOf();
  return {
    name: 'MatrixAttentionGradQuery',
    outputs: {dQuery: 'vec4f'},
    inputs: {...PACKED, logSums: 'f32', along: 'f32', scales: 'f32'},
    workgroup: threads,
    header: MATRIX_HEADER,
    globals: `${HALVES}
${keys.tiles}
${exchange.globals}`,
    body: `
  ${keys.place}
  let row = rowOfHead + min(t, u.length - 1u);
  ${keys.segment}
  let logSum = logSums[row] * ${LOG2E};
  let product = along[row];
  ${keys.loadRows('q', 'query')}
  ${keys.loadRows('g', 'slopes')}
  ${declareSums('out', blocks, dim)}
  ${keys.end}
  ${keyTile.registers}
  ${valueTile.registers}
  ${keys.load(keyTile, 'begin')}
  ${keys.load(valueTile, 'begin')}
  for (var s1 = begin; s1 < end; s1 += ${STEPS * cols}u) {
    ${keyTile.store()}
    ${valueTile.store()}
    workgroupBarrier();
    if (s1 + ${STEPS * cols}u < end) { // the next tiles arrive while these are used
      ${keys.load(keyTile, `(s1 + ${STEPS * cols}u)`)}
      ${keys.load(valueTile, `(s1 + ${STEPS * cols}u)`)}
    }
    ${times(
      STEPS,
      (step) => `{
      let s0 = s1 + ${step * cols}u;
      ${keepsOrder ? 'if (s0 < ownEnd) {' : '{'}
        ${exchange.scores(step, ['q', 'tileK'], ['g', 'tileV'])}
        ${keys.bound}
        ${keys.hide}
        ${times(vectors, (i) => `score${i} = ${changes(`exp2(score${i} - logSum)`, `slope${i}`, 'product', factorOf(kind, `score${i}`))};`)}
        ${exchange.pack('score')}
        ${exchange.accumulate(step, 'out', 0, 'tileK')}
      }
    }`,
    )}
    workgroupBarrier();
  }
  ${writeSums(
    'out',
    shape,
    `if (firstRow + r < u.length) {
        let at = rowOfHead + firstRow + r;
        dQuery[at * V + col] = u.scale * scales[at] * sum;
      }`,
  )}`,
  };
});

export function gradKeyValue(
  backend: WebGPUBackend,
  call: AttentionCall,
  operands: Operands,
): tf.TensorInfo[] {
  const {key, segments} = call.inputs;
  const [batch, groups, sourceLength, dim] = key.shape;
  const {keepsOrder} = capabilitiesOf(backend);
  const layout = fitted(
    backend,
    GRADIENT,
    dim,
    (tried) => memoryOf(tried, dim, {tiles: TILES, ...exchangesOf(keepsOrder, 2)}) + 8 * STEPS * tried.cols,
  );
  const dKey = backend.makeTensorInfo(key.shape, 'float32');
  const dValue = backend.makeTensorInfo(key.shape, 'float32');
  runShader(backend, {
    shader: backwardKeyValue(kindOf(call), layout, keepsOrder),
    buffers: {dKey, dValue, segments, ...operands},
    uniforms: uniformsOf(call),
    workgroups: [Math.ceil(sourceLength / rowsOf(layout)), batch * groups],
  });
  return [dKey, dValue];
}

const backwardKeyValue = attentionShader((kind, layout: Layout, keepsOrder: boolean) => {
  const {dim, causal, hasSegments, hasWindow} = kind;
  const {subgroups, blocks, cols} = layout;
  const shape = {blocks, dim, cols};
  const rows = rowsOf(layout);
  const threads = 32 * subgroups;
  const size = STEPS * cols; // queries in a tile
  const queries = tileOf('tileQ', 'query', {rows: size, dim, threads});
  const slopesTile = tileOf('tileG', 'slopes', {rows: size, dim, threads});
  const exchange = exchangeOf(shape, rows, keepsOrder, 2);
  const {vectors, declarations, hide, bound} = lanesOf(shape, exchange.stride);
  const isPastDiagonal = causal ? ` || firstRow + ${16 * blocks - 1}u > t0 + u.past` : '';
  const isPartial =
    hasSegments || hasWindow
      ? 'true'
      : `t0 + ${cols}u > u.length || firstRow + ${16 * blocks}u > u.sourceLength${isPastDiagonal}`;
  const four = (of: (row: string) => string) =>
    `vec4f(${[0, 1, 2, 3].map((e) => of(`(firstOfHead + min(four + ${e}u, u.length - 1u))`)).join(', ')})`;
  // Loads what comes next: the tile of queries of head `nextHead` from `nextT` on. A power of two that scales a query's
  // weights is taken from the logarithm of their sum.
  const loadNext = `
      ${queries.load('nextT', 'nextHead * u.length', 'u.length')}
      ${slopesTile.load('nextT', 'nextHead * u.length', 'u.length')}
      if (local < ${size / 4}u) {
        let firstOfHead = nextHead * u.length;
        let four = nextT + 4u * local;
        nextLog = ${four((row) => `logSums[${row}] * ${LOG2E} - log2(scales[${row}] * unit)`)};
        nextAlong = ${four((row) => `along[${row}]`)};
      }
      nextT += ${size}u;
      if (nextT >= lastQuery) { nextT = start; nextHead = min(nextHead + 1u, lastHead); }`;
  const stepOf = (step: number) => {
    const at = (step * cols) / 4;
    return `{
    let t0 = t1 + ${step * cols}u;
    ${exchange.scores(step, ['k', 'tileQ'], ['v', 'tileG'])}
    ${bound(kind)}
    if (${isPartial}) {
      let t = t0 + part;
      ${hide(
        (column) =>
          `(t + ${column} >= u.length) | (s >= u.sourceLength) | !isVisible(head, t + ${column}, s, segmentOf(head, t + ${column} + u.past))`,
      )}
    }
    ${times(
      vectors,
      (i) => `
    ${kind.isCapped ? `let factor${i} = vec4f(1.0)${factorOf(kind, `score${i}`)};` : ''}
    score${i} = exp2(score${i} - queryLogs[part / 4u + ${at + i}u]);
    slope${i} = ${changes(`score${i}`, `slope${i}`, `queryAlong[part / 4u + ${at + i}u]`, kind.isCapped ? ` * factor${i}` : '')};`,
    )}
    ${exchange.pack('score', 'slope')}
    ${exchange.accumulate(step, 'outV', 0, 'tileG')}
    ${exchange.accumulate(step, 'outK', 1, 'tileQ')}
  }`;
  };
  return {
    name: 'MatrixAttentionGradKeyValue',
    outputs: {dKey: 'vec4f', dValue: 'vec4f'},
    inputs: {...PACKED, logSums: 'f32', along: 'f32', scales: 'f32', largest: 'f32'},
    workgroup: threads,
    header: MATRIX_HEADER,
    globals: `${HALVES}
var<workgroup> tileQ: array<vec4u, ${size * halfStride(dim)}>;
var<workgroup> tileG: array<vec4u, ${size * halfStride(dim)}>;
${exchange.globals}
var<workgroup> queryLogs: array<vec4f, ${size / 4}>;
var<workgroup> queryAlong: array<vec4f, ${size / 4}>;`,
    body: `
  let first = group.x * ${rows}u;
  let source = group.y * u.sourceLength;
  let sharing = u.heads / u.groups;
  ${declarations}
  let firstRow = first + subgroup * ${16 * blocks}u;
  let s = firstRow + laneRow;
  let unit = select(1.0, 1.0 / largest[0], largest[0] > 0.0);
  ${loadLeft('k', 'key', {base: 'source', first: 'firstRow', limit: 'u.sourceLength'}, shape)}
  ${loadLeft('v', 'value', {base: 'source', first: 'firstRow', limit: 'u.sourceLength'}, shape)}
  ${declareSums('outK', blocks, dim)}
  ${declareSums('outV', blocks, dim)}
  ${queries.registers}
  ${slopesTile.registers}
  var nextLog: vec4f;
  var nextAlong: vec4f;
  let start = ${causal ? 'first - min(first, u.past)' : '0u'};
  let lastHead = group.y * sharing + sharing - 1u;
  var nextHead = group.y * sharing;
  var nextT = start;
  var head = nextHead;
  var t1 = start;
  let lastQuery = ${endOfQueries(kind, 'first', rows)};
  let tiles = sharing * ((lastQuery - start + ${size - 1}u) / ${size}u);
  ${loadNext}
  for (var tile = 0u; tile < tiles; tile++) {
    ${queries.store()}
    ${slopesTile.store()}
    if (local < ${size / 4}u) {
      queryLogs[local] = nextLog;
      queryAlong[local] = nextAlong;
    }
    workgroupBarrier();
    if (tile + 1u < tiles) {
      ${loadNext}
    }
    ${times(STEPS, stepOf)}
    workgroupBarrier();
    t1 += ${size}u;
    if (t1 >= lastQuery) { t1 = start; head = min(head + 1u, lastHead); }
  }
  ${writeSums('outK', shape, `if (firstRow + r < u.sourceLength) { dKey[(source + firstRow + r) * V + col] = largest[0] * ${Math.LN2} * sum; }`)}
  ${writeSums('outV', shape, 'if (firstRow + r < u.sourceLength) { dValue[(source + firstRow + r) * V + col] = largest[0] * sum; }')}`,
  };
});
