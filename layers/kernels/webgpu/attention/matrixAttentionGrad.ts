import type * as tf from '@tensorflow/tfjs';
import {runShader} from '../device/runShader.ts';
import {typed} from '../device/shader.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {
  accumulate,
  declareSums,
  fitted,
  type Layout,
  loadLeft,
  MATRIX_HEADER,
  PADDING,
  scoresOf,
  tileOf,
} from '../products/matrixTiles.ts';
import {
  type AttentionCall,
  type AttentionGradCall,
  attentionShader,
  kindOf,
  uniformsOf,
} from './attentionShader.ts';
import {
  hideScores,
  LOG2E,
  lanesOf,
  overKeys,
  packHeads,
  rowsOf,
  scratchBytes,
  tileBytes,
  writeRows,
} from './matrixAttention.ts';
import {largestOf, packSlopes} from './packSlopes.ts';

/** Like `FORWARD` of matrixAttention.ts, for the gradient of the query. */
export const GRAD_QUERY: Layout = {subgroups: 8, blocks: 1, cols: 32};
/** Here the rows are keys and the columns queries. */
export const GRAD_KEY_VALUE: Layout = {subgroups: 8, blocks: 1, cols: 32};

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
  const {halves: slopes, scales, along} = packSlopes(backend, dy, y);
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
  const layout = fitted(backend, GRAD_QUERY, dim, (tried) => [
    scratchBytes(tried, 1),
    2 * tileBytes(tried, dim),
  ]);
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

const backwardQuery = attentionShader((kind, layout: Layout) => {
  const {dim} = kind;
  const {blocks, cols} = layout;
  const {shape, rows, threads, width, ...keys} = overKeys(kind, layout);
  return {
    name: 'MatrixAttentionGradQuery',
    outputs: {dQuery: 'vec4f'},
    inputs: {...PACKED, logSums: 'f32', along: 'f32', scales: 'f32'},
    workgroup: threads,
    header: MATRIX_HEADER,
    globals: `${keys.tiles}
var<workgroup> changes: array<f16, ${rows * (cols + PADDING)}>;`,
    body: `
  ${keys.place}
  let row = rowOfHead + min(t, u.length - 1u);
  ${keys.segment}
  let logSum = logSums[row] * ${LOG2E};
  let product = along[row];
  ${keys.loadRows('q', 'query', 'changes')}
  ${keys.loadRows('g', 'slopes', 'changes')}
  ${declareSums('out', blocks, dim)}
  ${keys.end}
  ${keys.loop(`
    ${times(width, (i) => `let weight${i} = exp2(score${i} - logSum);`)}
    workgroupBarrier();
    ${scoresOf('g', 'tileV', 'region', shape)}
    workgroupBarrier();
    ${times(
      width,
      (i) =>
        `changes[weightAt + ${i}u] = f16(clamp(weight${i} * (scores[mine + ${i}u] - product), -65504.0, 65504.0));`,
    )}
    workgroupBarrier();
    ${accumulate('out', 'changes', 'weightRegion', 'tileK', shape)}`)}
  workgroupBarrier();
  ${writeRows('out', 'dQuery', {...shape, row: 'rowOfHead + t', isThere: 't < u.length', scale: 'u.scale * scales[row]'})}`,
  };
});

function gradKeyValue(backend: WebGPUBackend, call: AttentionCall, operands: Operands): tf.TensorInfo[] {
  const {key, segments} = call.inputs;
  const [batch, groups, sourceLength, dim] = key.shape;
  const layout = fitted(backend, GRAD_KEY_VALUE, dim, (tried) => [
    scratchBytes(tried, 2),
    2 * tileBytes(tried, dim) + 12 * tried.cols,
  ]);
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

const backwardKeyValue = attentionShader(({dim, causal, hasSegments}, layout: Layout) => {
  const {subgroups, blocks, cols} = layout;
  const shape = {blocks, dim, cols};
  const rows = rowsOf(layout);
  const threads = 32 * subgroups;
  const queries = tileOf('tileQ', 'query', {rows: cols, dim, base: 'rowOfHead', threads});
  const slopesTile = tileOf('tileG', 'slopes', {rows: cols, dim, base: 'rowOfHead', threads});
  const {width, declarations} = lanesOf(shape);
  const isPastDiagonal = causal ? ` || first + ${rows - 1}u > t0 + u.past` : '';
  const isPartialByQuery = hasSegments
    ? 'true'
    : `t0 + ${cols}u > u.length || first + ${rows}u > u.sourceLength${isPastDiagonal}`;
  const loadQueries = (t0: string) => `
      ${queries.load(t0, 'u.length')}
      ${slopesTile.load(t0, 'u.length')}
      if (local < ${cols}u) {
        let row = rowOfHead + min(${t0} + local, u.length - 1u);
        nextLog = logSums[row] * ${LOG2E};
        nextAlong = along[row];
        nextFactor = scales[row] * unit;
      }`;
  return {
    name: 'MatrixAttentionGradKeyValue',
    outputs: {dKey: 'vec4f', dValue: 'vec4f'},
    inputs: {...PACKED, logSums: 'f32', along: 'f32', scales: 'f32', largest: 'f32'},
    workgroup: threads,
    header: MATRIX_HEADER,
    globals: `
var<workgroup> tileQ: array<f16, ${cols * (dim + PADDING)}>;
var<workgroup> tileG: array<f16, ${cols * (dim + PADDING)}>;
var<workgroup> scores: array<f32, ${rows * (cols + 4)}>;
var<workgroup> weights: array<f16, ${rows * (cols + PADDING)}>;
var<workgroup> changes: array<f16, ${rows * (cols + PADDING)}>;
var<workgroup> queryLogs: array<f32, ${cols}>;
var<workgroup> queryAlong: array<f32, ${cols}>;
var<workgroup> queryFactors: array<f32, ${cols}>;`,
    body: `
  let first = group.x * ${rows}u;
  let source = group.y * u.sourceLength;
  let sharing = u.heads / u.groups;
  ${declarations}
  let s = first + laneRow;
  let unit = select(1.0, 1.0 / largest[0], largest[0] > 0.0);
  ${loadLeft('k', 'key', 'weights', {base: 'source', first: 'first', limit: 'u.sourceLength'}, {...shape, subgroups})}
  ${loadLeft('v', 'value', 'weights', {base: 'source', first: 'first', limit: 'u.sourceLength'}, {...shape, subgroups})}
  ${declareSums('outK', blocks, dim)}
  ${declareSums('outV', blocks, dim)}
  ${queries.registers}
  ${slopesTile.registers}
  var nextLog: f32;
  var nextAlong: f32;
  var nextFactor: f32;
  let start = ${causal ? 'first - min(first, u.past)' : '0u'};
  for (var h = 0u; h < sharing; h++) {
    let head = group.y * sharing + h;
    let rowOfHead = head * u.length;
    ${loadQueries('start')}
    for (var t0 = start; t0 < u.length; t0 += ${cols}u) {
      workgroupBarrier();
      ${queries.store}
      ${slopesTile.store}
      if (local < ${cols}u) {
        queryLogs[local] = nextLog;
        queryAlong[local] = nextAlong;
        queryFactors[local] = nextFactor;
      }
      workgroupBarrier();
      if (t0 + ${cols}u < u.length) {
        ${loadQueries(`(t0 + ${cols}u)`)}
      }
      ${scoresOf('k', 'tileQ', 'region', shape)}
      workgroupBarrier();
      ${times(width, (i) => `var score${i} = scores[mine + ${i}u];`)}
      if (${isPartialByQuery}) {
        let t = t0 + part;
        ${hideScores(
          width,
          (i) =>
            `(t + ${i}u >= u.length) | (s >= u.sourceLength) | !isVisible(head, t + ${i}u, s, segmentOf(head, t + ${i}u + u.past))`,
        )}
      }
      ${times(
        width,
        (i) => `let weight${i} = exp2(score${i} - queryLogs[part + ${i}u]) * queryFactors[part + ${i}u];`,
      )}
      workgroupBarrier();
      ${scoresOf('v', 'tileG', 'region', shape)}
      workgroupBarrier();
      ${times(
        width,
        (i) => `
      weights[weightAt + ${i}u] = f16(weight${i});
      changes[weightAt + ${i}u] = f16(clamp(weight${i} * (scores[mine + ${i}u] - queryAlong[part + ${i}u]), -65504.0, 65504.0));`,
      )}
      workgroupBarrier();
      ${accumulate('outV', 'weights', 'weightRegion', 'tileG', shape)}
      ${accumulate('outK', 'changes', 'weightRegion', 'tileQ', shape)}
    }
  }
  workgroupBarrier();
  ${writeRows('outK', 'dKey', {...shape, row: 'source + s', isThere: 's < u.sourceLength', scale: `largest[0] * ${Math.LN2}`})}
  ${writeRows('outV', 'dValue', {...shape, row: 'source + s', isThere: 's < u.sourceLength', scale: 'largest[0]'})}`,
  };
});
