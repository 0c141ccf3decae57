import type * as tf from '@tensorflow/tfjs';
import {HALVES} from '../device/halves.ts';
import {runShader} from '../device/runShader.ts';
import {typed} from '../device/shader.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {
  accumulate,
  declareSums,
  fitted,
  floatStride,
  halfStride,
  type Layout,
  loadLeft,
  MATRIX_HEADER,
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
import {largestOf, packSlopes} from './packSlopes.ts';

/** Like `FORWARD` of matrixAttention.ts, for the gradient of the query. */
export const GRAD_QUERY: Layout = {subgroups: 4, blocks: 2, cols: 16};
/** Here the rows are keys and the columns queries. */
export const GRAD_KEY_VALUE: Layout = {subgroups: 4, blocks: 1, cols: 32};

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
  const {halves: slopes, scales, along} = packSlopes(backend, dy, y, call.rowScales);
  const [packedQuery, packedKey, packedValue] = packHeads(backend, call);
  const operands: Operands = {
    query: packedQuery,
    key: packedKey,
    value: packedValue,
    ...{slopes, logSums, along, scales},
    largest: largestOf(backend, scales),
  };
  const gradients = [gradQuery(backend, call, operands), ...gradKeyValue(backend, call, operands)];
  const {logSums: _kept, ...made} = operands;
  for (const {dataId} of Object.values(made)) backend.disposeData(dataId);
  return gradients;
}

function gradQuery(backend: WebGPUBackend, call: AttentionCall, operands: Operands): tf.TensorInfo {
  const {query, segments} = call.inputs;
  const [batch, heads, length, dim] = query.shape;
  const layout = fitted(backend, GRAD_QUERY, dim, (tried) =>
    memoryOf(tried, dim, {tiles: 3, floats: 2, halves: 1}),
  );
  const dQuery = backend.makeTensorInfo(query.shape, 'float32');
  runShader(backend, {
    shader: backwardQuery(kindOf(call), layout),
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

const backwardQuery = attentionShader((kind, layout: Layout) => {
  const {dim} = kind;
  const {blocks, cols} = layout;
  const {shape, rows, threads, ...keys} = overKeys(kind, layout);
  const {vectors, pack, read} = lanesOf(layout);
  const [keyTile, valueTile] = keys.tilesOf();
  const size = cols * halfStride(dim);
  const slopesAt = rows * floatStride(cols);
  const bothScores = (tileK: string) => `
    ${scoresOf('q', 'tileK', tileK, 'region', shape)}
    ${scoresOf('g', 'tileV', '0u', `region + ${slopesAt}u`, shape)}`;
  return {
    name: 'MatrixAttentionGradQuery',
    outputs: {dQuery: 'vec4f'},
    inputs: {...PACKED, logSums: 'f32', along: 'f32', scales: 'f32'},
    workgroup: threads,
    header: MATRIX_HEADER,
    globals: `${HALVES}
${keys.tiles(2)}
var<workgroup> scores: array<vec4u, ${2 * slopesAt}>; // then the slopes of the weights
var<workgroup> weights: array<vec4u, ${rows * halfStride(cols)}>;`,
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
  ${keyTile.store()}
  ${valueTile.store()}
  ${keys.load(keyTile, `(begin + ${cols}u)`)}
  ${keys.load(valueTile, `(begin + ${cols}u)`)}
  workgroupBarrier();
  ${bothScores('0u')}
  workgroupBarrier();
  var current = 0u; // where this tile's keys begin; the next ones are in the other half
  for (var s0 = begin; s0 < end; s0 += ${cols}u) {
    if (s0 < ownEnd) {
      ${read('score', 'mine')}
      ${keys.bound}
      ${keys.hide}
      ${read('slope', `mine + ${slopesAt}u`)}
      ${times(vectors, (i) => `score${i} = ${changes(`exp2(score${i} - logSum)`, `slope${i}`, 'product', factorOf(kind, `score${i}`))};`)}
      ${pack('weights', 'score')}
    }
    let next = ${size}u - current;
    ${keyTile.store('next')}
    ${valueTile.store()}
    if (s0 + ${cols}u < end) {
      ${keys.load(keyTile, `(s0 + ${2 * cols}u)`)}
      ${keys.load(valueTile, `(s0 + ${2 * cols}u)`)}
    }
    workgroupBarrier();
    if (s0 < ownEnd) {
      ${accumulate('out', 'weights', 'tileK', 'current', shape)}
      if (s0 + ${cols}u < ownEnd) {
        ${bothScores('next')}
      }
    }
    workgroupBarrier();
    current = next;
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

function gradKeyValue(backend: WebGPUBackend, call: AttentionCall, operands: Operands): tf.TensorInfo[] {
  const {key, segments} = call.inputs;
  const [batch, groups, sourceLength, dim] = key.shape;
  const layout = fitted(
    backend,
    GRAD_KEY_VALUE,
    dim,
    (tried) => memoryOf(tried, dim, {tiles: 4, floats: 2, halves: 2}) + 24 * tried.cols,
  );
  const dKey = backend.makeTensorInfo(key.shape, 'float32');
  const dValue = backend.makeTensorInfo(key.shape, 'float32');
  runShader(backend, {
    shader: backwardKeyValue(kindOf(call), layout),
    buffers: {dKey, dValue, segments, ...operands},
    uniforms: uniformsOf(call),
    workgroups: [Math.ceil(sourceLength / rowsOf(layout)), batch * groups],
  });
  return [dKey, dValue];
}

const backwardKeyValue = attentionShader((kind, layout: Layout) => {
  const {dim, causal, hasSegments, hasWindow} = kind;
  const {subgroups, blocks, cols} = layout;
  const shape = {blocks, dim, cols};
  const rows = rowsOf(layout);
  const threads = 32 * subgroups;
  const queries = tileOf('tileQ', 'query', {rows: cols, dim, threads});
  const slopesTile = tileOf('tileG', 'slopes', {rows: cols, dim, threads});
  const {vectors, declarations, hide, bound, pack, read} = lanesOf(shape);
  const size = cols * halfStride(dim);
  const slopesAt = rows * floatStride(cols);
  const isPastDiagonal = causal ? ` || firstRow + ${16 * blocks - 1}u > t0 + u.past` : '';
  const isPartial =
    hasSegments || hasWindow
      ? 'true'
      : `t0 + ${cols}u > u.length || firstRow + ${16 * blocks}u > u.sourceLength${isPastDiagonal}`;
  // Loads what comes next: the tile of queries of head `nextHead` from `nextT` on.
  const loadNext = `
      ${queries.load('nextT', 'nextHead * u.length', 'u.length')}
      ${slopesTile.load('nextT', 'nextHead * u.length', 'u.length')}
      if (local < ${cols}u) {
        let row = nextHead * u.length + min(nextT + local, u.length - 1u);
        nextLog = logSums[row] * ${LOG2E};
        nextAlong = along[row];
        nextFactor = scales[row] * unit;
      }
      nextT += ${cols}u;
      if (nextT >= lastQuery) { nextT = start; nextHead = min(nextHead + 1u, lastHead); }`;
  const store = (half: string) => `
      ${queries.store(`${half} * ${size}u`)}
      ${slopesTile.store(`${half} * ${size}u`)}
      if (local < ${cols}u) {
        let to = ${half} * ${cols}u + local;
        queryLogs[to] = nextLog;
        queryAlong[to] = nextAlong;
        queryFactors[to] = nextFactor;
      }`;
  const bothScores = (half: string) => `
    ${scoresOf('k', 'tileQ', `${half} * ${size}u`, 'region', shape)}
    ${scoresOf('v', 'tileG', `${half} * ${size}u`, `region + ${slopesAt}u`, shape)}`;
  // Four numbers of queries, for the lane's vector i.
  const four = (numbers: string, i: number) =>
    `vec4f(${[0, 1, 2, 3].map((e) => `${numbers}[statistics + ${4 * i + e}u]`).join(', ')})`;
  return {
    name: 'MatrixAttentionGradKeyValue',
    outputs: {dKey: 'vec4f', dValue: 'vec4f'},
    inputs: {...PACKED, logSums: 'f32', along: 'f32', scales: 'f32', largest: 'f32'},
    workgroup: threads,
    header: MATRIX_HEADER,
    globals: `${HALVES}
var<workgroup> tileQ: array<vec4u, ${2 * size}>;
var<workgroup> tileG: array<vec4u, ${2 * size}>;
var<workgroup> scores: array<vec4u, ${2 * slopesAt}>; // then the slopes of the weights
var<workgroup> weights: array<vec4u, ${rows * halfStride(cols)}>;
var<workgroup> changes: array<vec4u, ${rows * halfStride(cols)}>;
var<workgroup> queryLogs: array<f32, ${2 * cols}>;
var<workgroup> queryAlong: array<f32, ${2 * cols}>;
var<workgroup> queryFactors: array<f32, ${2 * cols}>;`,
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
  var nextLog: f32;
  var nextAlong: f32;
  var nextFactor: f32;
  let start = ${causal ? 'first - min(first, u.past)' : '0u'};
  let lastHead = group.y * sharing + sharing - 1u;
  var nextHead = group.y * sharing;
  var nextT = start;
  var head = nextHead;
  var t0 = start;
  let lastQuery = ${endOfQueries(kind, 'first', rows)};
  let tiles = sharing * ((lastQuery - start + ${cols - 1}u) / ${cols}u);
  ${loadNext}
  ${store('0u')}
  ${loadNext}
  workgroupBarrier();
  ${bothScores('0u')}
  workgroupBarrier();
  var current = 0u;
  for (var tile = 0u; tile < tiles; tile++) {
    let next = 1u - current;
    let statistics = current * ${cols}u + part;
    ${read('score', 'mine')}
    ${bound(kind)}
    if (${isPartial}) {
      let t = t0 + part;
      ${hide(
        (column) =>
          `(t + ${column} >= u.length) | (s >= u.sourceLength) | !isVisible(head, t + ${column}, s, segmentOf(head, t + ${column} + u.past))`,
      )}
    }
    ${read('slope', `mine + ${slopesAt}u`)}
    ${times(
      vectors,
      (i) => `
    ${kind.isCapped ? `let factor${i} = vec4f(1.0)${factorOf(kind, `score${i}`)};` : ''}
    score${i} = exp2(score${i} - ${four('queryLogs', i)}) * ${four('queryFactors', i)};
    slope${i} = ${changes(`score${i}`, `slope${i}`, four('queryAlong', i), kind.isCapped ? ` * factor${i}` : '')};`,
    )}
    ${pack('weights', 'score')}
    ${pack('changes', 'slope')}
    ${store('next')}
    if (tile + 2u < tiles) {
      ${loadNext}
    }
    workgroupBarrier();
    ${accumulate('outV', 'weights', 'tileG', `current * ${size}u`, shape)}
    ${accumulate('outK', 'changes', 'tileQ', `current * ${size}u`, shape)}
    if (tile + 1u < tiles) {
      ${bothScores('next')}
    }
    workgroupBarrier();
    current = next;
    t0 += ${cols}u;
    if (t0 >= lastQuery) { t0 = start; head = min(head + 1u, lastHead); }
  }
  ${writeSums('outK', shape, `if (firstRow + r < u.sourceLength) { dKey[(source + firstRow + r) * V + col] = largest[0] * ${Math.LN2} * sum; }`)}
  ${writeSums('outV', shape, 'if (firstRow + r < u.sourceLength) { dValue[(source + firstRow + r) * V + col] = largest[0] * sum; }')}`,
  };
});
