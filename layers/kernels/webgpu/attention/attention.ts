import type * as tf from '@tensorflow/tfjs';
import {attentionOp} from '../../../ops/attention.ts';
import {kernel} from '../../kernel.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {capabilitiesOf, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {
  type AttentionCall,
  type AttentionGradCall,
  attentionShader,
  boundScore,
  endOfKeys,
  endOfQueries,
  kindOf,
  slopeOfBound,
  startOfKeys,
  uniformsOf,
} from './attentionShader.ts';
import {fitsMatrices, matrixAttention} from './matrixAttention.ts';
import {matrixAttentionGrad} from './matrixAttentionGrad.ts';

/** Number of threads in a workgroup, each with its own query (or, in backward, key). */
const THREADS = 64;
/** Number of keys (or queries) that are in workgroup memory at the same time. */
const TILE = 16;

/**
 * `Attention` (layers/ops/attention.ts) without a T×T matrix, in float32: a thread per query, keys and values through
 * workgroup memory, softmax kept as a running maximum and sum. Dao et al. 2022.
 *
 * Second output: the logarithm of each query's sum of exponentials, `[B, H, T]`, for backward.
 */
export const attention = kernel(attentionOp, 'webgpu', (call) => attend(call.backend, call));

/** {@link attention}; with subgroup matrices, query, key and value may be packed (see `packHeads`). */
export function attend(backend: WebGPUBackend, call: AttentionCall): tf.TensorInfo[] {
  const {inputs} = call;
  const {query, key, value, segments} = inputs;
  const [batch, heads, length] = query.shape;
  if (usesMatrices(backend, call)) return matrixAttention(backend, call);
  const y = backend.makeTensorInfo(query.shape, 'float32');
  const logSums = backend.makeTensorInfo([batch, heads, length], 'float32');
  runShader(backend, {
    shader: forward(kindOf(call)),
    buffers: {y, logSums, query, key, value, segments},
    uniforms: uniformsOf(call),
    workgroups: [Math.ceil(length / THREADS), batch * heads],
  });
  return [y, logSums];
}

/** WGSL for the tiles of keys and values in workgroup memory. */
const KEY_TILES = `
var<workgroup> keys: array<vec4f, ${TILE} * V>;
var<workgroup> values: array<vec4f, ${TILE} * V>;`;

/** WGSL that fills them from key `s0` on. */
const LOAD_KEY_TILES = `
    for (var i = local; i < ${TILE}u * V; i += WORKGROUP) {
      let s = min(s0 + i / V, u.sourceLength - 1u);
      keys[i] = key[(source + s) * V + i % V];
      values[i] = value[(source + s) * V + i % V];
    }
    workgroupBarrier();`;

const forward = attentionShader((kind) => ({
  name: 'Attention',
  outputs: {y: 'vec4f', logSums: 'f32'},
  inputs: {query: 'vec4f', key: 'vec4f', value: 'vec4f'},
  workgroup: THREADS,
  globals: KEY_TILES,
  body: `
  let first = group.x * WORKGROUP;
  let t = first + local;
  let source = sourceOf(group.y); // first row of this head's keys
  let at = (group.y * u.length + min(t, u.length - 1u)) * V;
  let segment = segmentOf(group.y, min(t, u.length - 1u) + u.past);
  var q: array<vec4f, V>;
  var sum: array<vec4f, V>;
  for (var d = 0u; d < V; d++) { q[d] = query[at + d] * u.scale; }
  var highest = -3.0e38;
  var total = 0.0;
  let end = ${endOfKeys(kind, 'first', THREADS)};
  for (var s0 = ${startOfKeys(kind, 'first')}; s0 < end; s0 += ${TILE}u) {
    ${LOAD_KEY_TILES}
    for (var j = 0u; j < min(${TILE}u, end - s0); j++) {
      if (!isVisible(group.y, t, s0 + j, segment)) { continue; }
      var score = 0.0;
      for (var d = 0u; d < V; d++) { score += dot(q[d], keys[j * V + d]); }
      ${boundScore(kind, 'score')}
      let next = max(highest, score);
      let keep = exp(highest - next);
      let weight = exp(score - next);
      highest = next;
      total = total * keep + weight;
      for (var d = 0u; d < V; d++) { sum[d] = sum[d] * keep + weight * values[j * V + d]; }
    }
    workgroupBarrier();
  }
  if (t >= u.length) { return; }
  let inverse = select(0.0, 1.0 / total, total > 0.0);
  for (var d = 0u; d < V; d++) { y[at + d] = sum[d] * inverse; }
  logSums[group.y * u.length + t] = select(3.0e38, highest + log(total), total > 0.0); // 3e38: no weight in backward`,
}));

/**
 * Gradients of query, key and value. The weights are computed again from the logarithms of the sums. A thread per query
 * computes the query's gradient; a thread per key the other two, which it adds up over the heads that share the key.
 */
export const attentionGrad = kernel(attentionOp.gradient, 'webgpu', (call) => attendGrad(call.backend, call));

/** {@link attentionGrad}; with subgroup matrices, query, key and value may be packed (see `packHeads`). */
export function attendGrad(backend: WebGPUBackend, call: AttentionGradCall): tf.TensorInfo[] {
  const {inputs} = call;
  const {query, key, value, segments, dy, y, extra0: logSums} = inputs;
  const [batch, heads, length] = query.shape;
  const [, groups, sourceLength] = key.shape;
  if (usesMatrices(backend, call)) return matrixAttentionGrad(backend, call);
  const kind = kindOf(call);
  const uniforms = uniformsOf(call);
  const sums = backend.makeTensorInfo([batch, heads, length, 2], 'float32'); // so that no shader binds over 8 buffers
  runShader(backend, {
    shader: sumsOfQueries(kind.dim),
    buffers: {sums, dy, y, logSums},
    uniforms: {count: batch * heads * length},
    threads: batch * heads * length,
  });
  const dQuery = backend.makeTensorInfo(query.shape, 'float32');
  runShader(backend, {
    shader: backwardQuery(kind),
    buffers: {dQuery, query, key, value, dy, sums, segments},
    uniforms,
    workgroups: [Math.ceil(length / THREADS), batch * heads],
  });
  const dKey = backend.makeTensorInfo(key.shape, 'float32');
  const dValue = backend.makeTensorInfo(value.shape, 'float32');
  runShader(backend, {
    shader: backwardKeyValue(kind),
    buffers: {dKey, dValue, query, key, value, dy, sums, segments},
    uniforms,
    workgroups: [Math.ceil(sourceLength / THREADS), batch * groups],
  });
  backend.disposeData(sums.dataId);
  return [dQuery, dKey, dValue];
}

/** Puts next to each query's logarithm of its sum what backward subtracts from each slope: Σ dy · y. */
const sumsOfQueries = shader((dim: number) => ({
  name: 'AttentionGradSums',
  outputs: {sums: 'vec2f'},
  inputs: {dy: 'vec4f', y: 'vec4f', logSums: 'f32'},
  uniforms: {count: 'u32'},
  workgroup: THREADS,
  globals: `
const V = ${dim / 4}u;`,
  body: `
  let row = flatGroup * WORKGROUP + local;
  if (row >= u.count) { return; }
  var product = 0.0;
  for (var d = 0u; d < V; d++) { product += dot(dy[row * V + d], y[row * V + d]); }
  sums[row] = vec2f(logSums[row], product);`,
}));

const backwardQuery = attentionShader((kind) => ({
  name: 'AttentionGradQuery',
  outputs: {dQuery: 'vec4f'},
  inputs: {query: 'vec4f', key: 'vec4f', value: 'vec4f', dy: 'vec4f', sums: 'vec2f'},
  workgroup: THREADS,
  globals: KEY_TILES,
  body: `
  let first = group.x * WORKGROUP;
  let t = first + local;
  let source = sourceOf(group.y);
  let row = group.y * u.length + min(t, u.length - 1u);
  let segment = segmentOf(group.y, min(t, u.length - 1u) + u.past);
  var q: array<vec4f, V>;
  var g: array<vec4f, V>;
  var sum: array<vec4f, V>;
  for (var d = 0u; d < V; d++) {
    q[d] = query[row * V + d] * u.scale;
    g[d] = dy[row * V + d];
  }
  let own = sums[row];
  let end = ${endOfKeys(kind, 'first', THREADS)};
  for (var s0 = ${startOfKeys(kind, 'first')}; s0 < end; s0 += ${TILE}u) {
    ${LOAD_KEY_TILES}
    for (var j = 0u; j < min(${TILE}u, end - s0); j++) {
      if (!isVisible(group.y, t, s0 + j, segment)) { continue; }
      var score = 0.0;
      var slope = 0.0;
      for (var d = 0u; d < V; d++) {
        score += dot(q[d], keys[j * V + d]);
        slope += dot(g[d], values[j * V + d]);
      }
      ${boundScore(kind, 'score')}
      let weight = exp(score - own.x) * (slope - own.y)${slopeOfBound(kind, 'score')};
      for (var d = 0u; d < V; d++) { sum[d] += weight * keys[j * V + d]; }
    }
    workgroupBarrier();
  }
  if (t >= u.length) { return; }
  for (var d = 0u; d < V; d++) { dQuery[row * V + d] = sum[d] * u.scale; }`,
}));

const backwardKeyValue = attentionShader((kind) => ({
  name: 'AttentionGradKeyValue',
  outputs: {dKey: 'vec4f', dValue: 'vec4f'},
  inputs: {query: 'vec4f', key: 'vec4f', value: 'vec4f', dy: 'vec4f', sums: 'vec2f'},
  workgroup: THREADS,
  globals: `
var<workgroup> queries: array<vec4f, ${TILE} * V>;
var<workgroup> slopes: array<vec4f, ${TILE} * V>;`,
  body: `
  let first = group.x * WORKGROUP;
  let s = first + local;
  let row = group.y * u.sourceLength + min(s, u.sourceLength - 1u);
  let sharing = u.heads / u.groups;
  var k: array<vec4f, V>;
  var v: array<vec4f, V>;
  var sumK: array<vec4f, V>;
  var sumV: array<vec4f, V>;
  for (var d = 0u; d < V; d++) {
    k[d] = key[row * V + d] * u.scale;
    v[d] = value[row * V + d];
  }
  let lastQuery = ${endOfQueries(kind, 'first', THREADS)};
  for (var h = 0u; h < sharing; h++) {
    let head = group.y * sharing + h; // B·H, B·K heads are stored together
    for (var t0 = ${kind.causal ? 'first - min(first, u.past)' : '0u'}; t0 < lastQuery; t0 += ${TILE}u) {
      for (var i = local; i < ${TILE}u * V; i += WORKGROUP) {
        let t = min(t0 + i / V, u.length - 1u);
        queries[i] = query[(head * u.length + t) * V + i % V];
        slopes[i] = dy[(head * u.length + t) * V + i % V];
      }
      workgroupBarrier();
      for (var j = 0u; j < min(${TILE}u, u.length - t0); j++) {
        let t = t0 + j;
        if (s >= u.sourceLength || !isVisible(head, t, s, segmentOf(head, t + u.past))) { continue; }
        var score = 0.0;
        var slope = 0.0;
        for (var d = 0u; d < V; d++) {
          score += dot(k[d], queries[j * V + d]);
          slope += dot(v[d], slopes[j * V + d]);
        }
        let own = sums[head * u.length + t];
        ${boundScore(kind, 'score')}
        let weight = exp(score - own.x);
        let change = weight * (slope - own.y)${slopeOfBound(kind, 'score')};
        for (var d = 0u; d < V; d++) {
          sumV[d] += weight * slopes[j * V + d];
          sumK[d] += change * queries[j * V + d];
        }
      }
      workgroupBarrier();
    }
  }
  if (s >= u.sourceLength) { return; }
  for (var d = 0u; d < V; d++) {
    dKey[row * V + d] = sumK[d] * u.scale;
    dValue[row * V + d] = sumV[d];
  }`,
}));

/** Whether subgroup matrices compute it. */
export function usesMatrices(
  backend: WebGPUBackend,
  {inputs}: {inputs: Pick<AttentionCall['inputs'], 'query'>},
): boolean {
  const {hasHalfSums, computeDtype} = capabilitiesOf(backend);
  const [, , length, dim] = inputs.query.shape;
  return hasHalfSums && computeDtype === 'float16' && fitsMatrices(dim, length);
}
