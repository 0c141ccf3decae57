import type * as tf from '@tensorflow/tfjs';
import {HALVES} from '../device/halves.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {runShader} from '../device/runShader.ts';
import {typed} from '../device/shader.ts';
import {times} from '../device/times.ts';
import {capabilitiesOf, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {
  declareSums,
  fitted,
  halfStride,
  type Layout,
  loadLeft,
  MATRIX_HEADER,
  tileOf,
  writeSums,
} from '../products/matrixTiles.ts';
import {
  type AttentionCall,
  type AttentionGradCall,
  attentionShader,
  endOfQueries,
  kindOf,
  uniformsOf,
} from './attentionShader.ts';
import {
  changes,
  exchangeOf,
  factorOf,
  LOG2E,
  memoryOf,
  overKeys,
  packHeads,
  rowsOf,
} from './matrixAttention.ts';
import {largestOf, type PackedSlopes, packSlopes} from './packSlopes.ts';
import {layoutOfTeams, teamKeyValueGrad} from './teamKeyValueGrad.ts';

/**
 * How workgroups share rows: for the gradient of the query, rows are queries and columns keys; for those of key and value,
 * it is the other way round. Heads of more than 64 numbers have layouts of their own.
 */
const QUERY: Layout = {subgroups: 4, blocks: 2, cols: 16, steps: 4};
const QUERY_WIDE: Layout = {subgroups: 8, blocks: 1, cols: 16, steps: 2};
const KEY_VALUE: Layout = {subgroups: 4, blocks: 2, cols: 16, steps: 2};
const KEY_VALUE_WIDE: Layout = {subgroups: 8, blocks: 1, cols: 16, steps: 2};

/**
 * Number of parts in which slopes are summed in float16. A change of a score is a small difference of slopes: with sums of
 * 128 products, the gradients' largest error is 2.7e-3, with two of 64 it is 1.2e-3.
 */
const partsOf = (dim: number): number => Math.ceil(dim / 64);

/** The operands of both shaders: packed rows, and the scales of the slopes' rows. */
interface Operands {
  query: tf.TensorInfo;
  key: tf.TensorInfo;
  value: tf.TensorInfo;
  slopes: tf.TensorInfo;
  logSums: tf.TensorInfo;
  rowTerms: tf.TensorInfo;
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
  const operands = gradOperands(backend, call, packSlopes(backend, dy, y, logSums), logSums);
  const gradients = [gradQuery(backend, call, operands), ...gradKeyValue(backend, call, operands)];
  for (const {dataId} of Object.values(operands)) backend.disposeData(dataId);
  return gradients;
}

/** Returns what {@link gradQuery} and {@link gradKeyValue} take, to be disposed, with the slopes and `logSums`. */
export function gradOperands(
  backend: WebGPUBackend,
  call: AttentionCall,
  {halves: slopes, scales, rowTerms}: PackedSlopes,
  logSums: tf.TensorInfo,
): Operands {
  const [query, key, value] = packHeads(backend, call);
  return {query, key, value, slopes, logSums, rowTerms, scales, largest: largestOf(backend, scales)};
}

/**
 * Returns the gradient of the query, `[B, H, T, D]`.
 *
 * @param isPacked whether it is float16, each row to be multiplied by the scale of its slope. Default false: float32
 */
export function gradQuery(
  backend: WebGPUBackend,
  call: AttentionCall,
  operands: Operands,
  isPacked = false,
): tf.TensorInfo {
  const {query, segments} = call.inputs;
  const [batch, heads, length, dim] = query.shape;
  const {keepsOrder} = capabilitiesOf(backend);
  const layout = fitted(backend, dim > 64 ? QUERY_WIDE : QUERY, (tried) =>
    memoryOf(tried, dim, partsOf(dim)),
  );
  const dQuery = isPacked
    ? makeScratch(backend, [batch * heads * length, dim / 2], 'int32')
    : backend.makeTensorInfo(query.shape, 'float32');
  runShader(backend, {
    shader: backwardQuery(kindOf(call), layout, keepsOrder, isPacked),
    buffers: {dQuery, segments, ...operands},
    uniforms: uniformsOf(call),
    workgroups: [batch * heads, Math.ceil(length / rowsOf(layout))],
  });
  return dQuery;
}

const PACKED = typed(['query', 'key', 'value', 'slopes'], 'vec4u');

const backwardQuery = attentionShader((kind, layout: Layout, keepsOrder: boolean, isPacked: boolean) => {
  const {dim} = kind;
  const {blocks} = layout;
  const parts = partsOf(dim);
  const {shape, threads, exchange, ...keys} = overKeys(kind, layout, keepsOrder, parts);
  return {
    name: 'MatrixAttentionGradQuery',
    outputs: {dQuery: isPacked ? 'vec2u' : 'vec4f'},
    inputs: {...PACKED, logSums: 'f32', rowTerms: 'vec2f', scales: isPacked ? undefined : 'f32'},
    workgroup: threads,
    header: MATRIX_HEADER,
    globals: `${HALVES}
${keys.globals}`,
    body: `
  ${keys.place}
  ${keys.segment}
  let row = rowOfHead + min(t, u.length - 1u);
  let logSum = logSums[row] * ${LOG2E};
  let product = rowTerms[row].y;
  ${keys.loadRows('q', 'query')}
  ${keys.loadRows('g', 'slopes')}
  ${declareSums('out', blocks, dim)}
  ${keys.end}
  ${keys.registers}
  ${keys.throughTiles(
    (step) => `
        ${scoresAndSlopes(exchange, step, parts, ['q', 'tileK'], ['g', 'tileV'])}
        ${exchange.bound(kind)}
        ${keys.hide}
        ${times(exchange.vectors, (i) => `score${i} = ${changes(`exp2(score${i} - logSum)`, `slope${i}`, 'product', factorOf(kind, `score${i}`))};`)}
        ${exchange.write('score')}
        ${exchange.wait}
        ${exchange.accumulate('out', 'tileK', step)}
        ${exchange.wait}`,
  )}
  ${writeSums(
    'out',
    shape,
    `if (firstRow + r < u.length) {
        let at = rowOfHead + firstRow + r;
        dQuery[at * V + col] = ${isPacked ? 'halved(u.scale * sum)' : 'u.scale * scales[at] * sum'};
      }`,
  )}`,
  };
});

/** WGSL that computes the lane's scores, `left · tileᵀ` of the first pair, and slopes, of the second, in a step of the tiles. */
const scoresAndSlopes = (
  {multiply, read, wait}: ReturnType<typeof exchangeOf>,
  step: number,
  parts: number,
  scores: [left: string, tile: string],
  slopes: [left: string, tile: string],
): string => `
        ${multiply(...scores, step)}
        ${wait}
        ${read('score')}
        ${wait}
        ${multiply(...slopes, step, parts)}
        ${wait}
        ${read('slope', parts)}`;

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
    dim > 64 ? KEY_VALUE_WIDE : KEY_VALUE,
    (tried) => memoryOf(tried, dim, partsOf(dim)) + 8 * tried.steps * tried.cols,
  );
  const teams = layoutOfTeams(backend, dim);
  const kind = kindOf(call);
  const dKey = backend.makeTensorInfo(key.shape, 'float32');
  const dValue = backend.makeTensorInfo(key.shape, 'float32');
  runShader(backend, {
    shader: teams ? teamKeyValueGrad(kind, teams) : backwardKeyValue(kind, layout, keepsOrder),
    buffers: {dKey, dValue, segments, ...operands},
    uniforms: uniformsOf(call),
    workgroups: [batch * groups, Math.ceil(sourceLength / (teams ? 16 * teams.subgroups : rowsOf(layout)))],
  });
  return [dKey, dValue];
}

const backwardKeyValue = attentionShader((kind, layout: Layout, keepsOrder: boolean) => {
  const {dim, causal, hasSegments, hasWindow} = kind;
  const {subgroups, blocks, cols, steps} = layout;
  const parts = partsOf(dim);
  const shape = {blocks, dim, cols};
  const rows = rowsOf(layout);
  const threads = 32 * subgroups;
  const size = steps * cols; // queries in a tile
  const queries = tileOf('tileQ', 'query', {rows: size, dim, threads});
  const slopesTile = tileOf('tileG', 'slopes', {rows: size, dim, threads});
  const exchange = exchangeOf(layout, dim, keepsOrder, parts);
  const {declarations, wait} = exchange;
  const isPastDiagonal = causal ? ` || firstRow + ${16 * blocks - 1}u > t0 + u.past` : '';
  const isPartial =
    hasSegments || hasWindow
      ? 'true'
      : `t0 + ${cols}u > u.length || firstRow + ${16 * blocks}u > u.sourceLength${isPastDiagonal}`;
  // Loads what comes next: the tile of queries of head `nextHead` from `nextT` on.
  const loadNext = `
      ${queries.load('nextT', 'nextHead * u.length', 'u.length')}
      ${slopesTile.load('nextT', 'nextHead * u.length', 'u.length')}
      if (local < ${size}u) { nextTerms = rowTerms[nextHead * u.length + min(nextT + local, u.length - 1u)]; }
      nextT += ${size}u;
      if (nextT >= lastQuery) { nextT = start; nextHead = min(nextHead + 1u, lastHead); }`;
  const stepOf = (step: number) => {
    const at = (step * cols) / 4;
    return `{
    let t0 = t1 + ${step * cols}u;
    ${scoresAndSlopes(exchange, step, parts, ['k', 'tileQ'], ['v', 'tileG'])}
    ${exchange.bound(kind)}
    if (${isPartial}) {
      let t = t0 + part;
      ${exchange.hide(
        (column) =>
          `(t + ${column} >= u.length) | (s >= u.sourceLength) | !isVisible(head, t + ${column}, s, segmentOf(head, t + ${column} + u.past))`,
      )}
    }
    ${times(
      exchange.vectors,
      (i) => `
    ${kind.isCapped ? `let factor${i} = vec4f(1.0)${factorOf(kind, `score${i}`)};` : ''}
    score${i} = exp2(score${i} - queryLogs[part / 4u + ${at + i}u]);
    slope${i} = ${changes(`score${i}`, `slope${i}`, `queryAlong[part / 4u + ${at + i}u]`, kind.isCapped ? ` * factor${i}` : '')};`,
    )}
    ${exchange.write('score')}
    ${wait}
    ${exchange.accumulate('outV', 'tileG', step)}
    ${wait}
    ${exchange.write('slope')}
    ${wait}
    ${exchange.accumulate('outK', 'tileQ', step)}
    ${wait}
  }`;
  };
  return {
    name: 'MatrixAttentionGradKeyValue',
    outputs: {dKey: 'vec4f', dValue: 'vec4f'},
    inputs: {...PACKED, rowTerms: 'vec2f', largest: 'f32'},
    workgroup: threads,
    header: MATRIX_HEADER,
    globals: `${HALVES}
var<workgroup> tileQ: array<vec4u, ${size * halfStride(dim)}>;
var<workgroup> tileG: array<vec4u, ${size * halfStride(dim)}>;
${exchange.globals}
var<workgroup> queryLogs: array<vec4f, ${size / 4}>;
var<workgroup> queryAlong: array<vec4f, ${size / 4}>;`,
    body: `
  let source = group.x * u.sourceLength;
  let first = group.y * ${rows}u; // the longest of all heads first
  let sharing = u.heads / u.groups;
  ${declarations}
  let firstRow = first + subgroup * ${16 * blocks}u;
  let s = firstRow + laneRow;
  let unit = select(0.0, log2(largest[0]), largest[0] > 0.0);
  ${loadLeft('k', 'key', {base: 'source', first: 'firstRow', limit: 'u.sourceLength'}, shape)}
  ${loadLeft('v', 'value', {base: 'source', first: 'firstRow', limit: 'u.sourceLength'}, shape)}
  ${declareSums('outK', blocks, dim)}
  ${declareSums('outV', blocks, dim)}
  ${queries.registers}
  ${slopesTile.registers}
  var nextTerms: vec2f;
  let start = ${causal ? 'first - min(first, u.past)' : '0u'};
  let lastHead = group.x * sharing + sharing - 1u;
  var nextHead = group.x * sharing;
  var nextT = start;
  var head = nextHead;
  var t1 = start;
  let lastQuery = ${endOfQueries(kind, 'first', rows)};
  let tiles = sharing * ((lastQuery - start + ${size - 1}u) / ${size}u);
  ${loadNext}
  for (var tile = 0u; tile < tiles; tile++) {
    ${queries.store()}
    ${slopesTile.store()}
    if (local < ${size}u) {
      queryLogs[local / 4u][local % 4u] = nextTerms.x + unit; // weights are at most 1
      queryAlong[local / 4u][local % 4u] = nextTerms.y;
    }
    workgroupBarrier();
    if (tile + 1u < tiles) {
      ${loadNext}
    }
    ${times(steps, stepOf)}
    workgroupBarrier();
    t1 += ${size}u;
    if (t1 >= lastQuery) { t1 = start; head = min(head + 1u, lastHead); }
  }
  ${writeSums('outK', shape, `if (firstRow + r < u.sourceLength) { dKey[(source + firstRow + r) * V + col] = largest[0] * ${Math.LN2} * sum; }`)}
  ${writeSums('outV', shape, 'if (firstRow + r < u.sourceLength) { dValue[(source + firstRow + r) * V + col] = largest[0] * sum; }')}`,
  };
});
