import type * as tf from '@tensorflow/tfjs';
import {type AttentionArgs, preamble, uniformsOf} from './attentionShader.ts';
import {FLAT_ID, flatWorkgroups, runShader} from './runShader.ts';
import type {WebGPUBackend} from './webgpuBackend.ts';

/** Queries (or, for the gradients of keys and values, keys) of a workgroup: sixteen for each of four subgroups. */
const ROWS = 64;
const THREADS = 128;
/** Elements that keep the rows of a tile off the same memory banks. */
const PADDING = 8;

const times = (count: number, body: (i: number) => string) =>
  Array.from({length: count}, (_, i) => body(i)).join('\n');

const HEADER = `
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);
diagnostic(off, subgroup_uniformity);
alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sum = subgroup_matrix_result<f32, 16, 16>;
`;

/** Heads that the shaders take: whole matrices, and tiles that fit workgroup memory. */
export const fitsMatrices = (dim: number, length: number): boolean =>
  dim % 16 === 0 && dim <= 128 && length >= 16;

/**
 * WGSL that copies `rows` rows of float32 vectors from `source` to float16 in the workgroup array `tile`, rows from `limit`
 * on as zeros.
 *
 * @param first WGSL of the first row to copy, counted from the head's own
 * @param base WGSL of the head's first row
 */
function copyRows(
  tile: string,
  source: string,
  {
    rows,
    dim,
    base,
    first,
    limit,
    factor,
  }: Record<'base' | 'first' | 'limit', string> & {
    rows: number;
    dim: number;
    factor?: string;
  },
): string {
  const perRow = dim / 4;
  return `
  for (var i = local; i < ${rows * perRow}u; i += ${THREADS}u) {
    let r = i / ${perRow}u;
    var v = vec4f(0.0);
    if (${first} + r < ${limit}) { v = ${source}[(${base} + ${first} + r) * V + i % ${perRow}u]${factor ? ` * ${factor}` : ''}; }
    let h = vec4<f16>(clamp(v, vec4f(-65504.0), vec4f(65504.0)));
    let to = r * ${dim + PADDING}u + (i % ${perRow}u) * 4u;
    ${tile}[to] = h.x;
    ${tile}[to + 1u] = h.y;
    ${tile}[to + 2u] = h.z;
    ${tile}[to + 3u] = h.w;
  }`;
}

/** Four times float16 already: packed rows, two words for four elements. */
function copyHalves(
  tile: string,
  source: string,
  {rows, dim, base, first, limit}: Record<'base' | 'first' | 'limit', string> & {rows: number; dim: number},
): string {
  const perRow = dim / 4;
  return `
  for (var i = local; i < ${rows * perRow}u; i += ${THREADS}u) {
    let r = i / ${perRow}u;
    var words = vec2u(0);
    if (${first} + r < ${limit}) { words = ${source}[(${base} + ${first} + r) * V + i % ${perRow}u]; }
    let h = bitcast<vec4<f16>>(words);
    let to = r * ${dim + PADDING}u + (i % ${perRow}u) * 4u;
    ${tile}[to] = h.x;
    ${tile}[to + 1u] = h.y;
    ${tile}[to + 2u] = h.z;
    ${tile}[to + 3u] = h.w;
  }`;
}

/** The subgroup's sixteen rows of `tile` as left matrices `name0`, `name1` … */
const loadLeft = (name: string, tile: string, dim: number) =>
  times(
    dim / 16,
    (d) =>
      `let ${name}${d} = subgroupMatrixLoad<Left, row_major>(&${tile}, subgroup * ${16 * (dim + PADDING)}u + ${16 * d}u, ${dim + PADDING}u);`,
  );

/** `left · tileᵀ`, sixteen rows by `cols`, into the subgroup's part of `scores`. */
const scoresOf = (left: string, tile: string, scores: string, dim: number, cols: number) =>
  times(
    cols / 16,
    (j) => `{
    var sum = Sum(); // said aloud: in a loop a bare declaration may keep the value of the last round
    ${times(
      dim / 16,
      (d) =>
        `sum = subgroupMatrixMultiplyAccumulate(${left}${d}, subgroupMatrixLoad<Right, col_major>(&${tile}, ${16 * j * (dim + PADDING) + 16 * d}u, ${dim + PADDING}u), sum);`,
    )}
    subgroupMatrixStore<row_major>(&${scores}, subgroup * ${16 * (cols + 4)}u + ${16 * j}u, sum, ${cols + 4}u);
  }`,
  );

/** `name += weights · tile`, the subgroup's part of `weights`, sixteen rows by `cols`. */
const accumulate = (name: string, weights: string, tile: string, dim: number, cols: number) =>
  times(
    cols / 16,
    (j) => `{
    let w = subgroupMatrixLoad<Left, row_major>(&${weights}, subgroup * ${16 * (cols + PADDING)}u + ${16 * j}u, ${cols + PADDING}u);
    ${times(
      dim / 16,
      (d) =>
        `${name}${d} = subgroupMatrixMultiplyAccumulate(w, subgroupMatrixLoad<Right, row_major>(&${tile}, ${16 * j * (dim + PADDING) + 16 * d}u, ${dim + PADDING}u), ${name}${d});`,
    )}
  }`,
  );

/** Writes `name0` … to sixteen rows of `output` by way of `scores`, each row times WGSL `scale` of `row`. */
const writeRows = (
  name: string,
  output: string,
  {
    dim,
    region,
    base,
    first,
    limit,
    scale,
  }: Record<'base' | 'first' | 'limit' | 'scale', string> & {
    dim: number;
    region: number;
  },
) =>
  times(
    dim / 16,
    (d) => `
  subgroupMatrixStore<row_major>(&scores, subgroup * ${region}u, ${name}${d}, 16u);
  workgroupBarrier();
  for (var i = lane; i < 64u; i += 32u) {
    let row = ${first} + subgroup * 16u + i / 4u;
    let start = subgroup * ${region}u + (i / 4u) * 16u + (i % 4u) * 4u;
    if (row < ${limit}) {
      ${output}[(${base} + row) * V + ${4 * d}u + i % 4u] =
        vec4f(scores[start], scores[start + 1u], scores[start + 2u], scores[start + 3u]) * ${scale};
    }
  }
  workgroupBarrier();`,
  );

const MAIN = `
@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32,
        @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {`;

/**
 * `Attention` by subgroup matrices: float16 operands, float32 sums. Keys are read twice: once for each query's maximum and
 * sum, once to add values up with weights that are final, since matrices in registers cannot be rescaled row by row.
 */
export function matrixAttention(backend: WebGPUBackend, args: AttentionArgs): tf.TensorInfo[] {
  const {inputs, attrs} = args;
  const {query, key, value, segments} = inputs;
  const [batch, heads, length, dim] = query.shape;
  const cols = dim <= 64 ? 64 : 32;
  const stride = dim + PADDING;
  const y = backend.makeTensorInfo(query.shape, 'float32');
  const logSums = backend.makeTensorInfo([batch, heads, length], 'float32');
  const half = cols / 2;
  const copy = (tile: string, source: string) =>
    copyRows(tile, source, {rows: cols, dim, base: 'source', first: 's0', limit: 'u.sourceLength'});
  const code = `${HEADER}
${preamble(args, ['y: array<vec4f>', 'logSums: array<f32>'], ['query', 'key', 'value'])}
var<workgroup> tileK: array<f16, ${Math.max(cols, ROWS) * stride}>;
var<workgroup> tileV: array<f16, ${cols * stride}>;
var<workgroup> scores: array<f32, ${ROWS * (cols + 4)}>;
var<workgroup> weights: array<f16, ${ROWS * (cols + PADDING)}>;
${MAIN}
  let first = (groups.x - 1u - group.x) * ${ROWS}u; // the longest first
  let head = group.y;
  let source = sourceOf(head);
  let rowOfHead = head * u.length;
  ${copyRows('tileK', 'query', {rows: ROWS, dim, base: 'rowOfHead', first: 'first', limit: 'u.length', factor: 'u.scale'})}
  workgroupBarrier();
  ${loadLeft('q', 'tileK', dim)}
  workgroupBarrier();
  let t = first + subgroup * 16u + lane / 2u; // two lanes share a query
  let segment = segmentOf(head, min(t, u.length - 1u) + u.past);
  let mine = subgroup * ${16 * (cols + 4)}u + (lane / 2u) * ${cols + 4}u + lane % 2u;
  let end = ${attrs.causal ? `min(first + ${ROWS}u, u.length) + u.past` : 'u.sourceLength'};
  var highest = -3.0e38;
  var total = 0.0;
  for (var s0 = 0u; s0 < end; s0 += ${cols}u) {
    ${copy('tileK', 'key')}
    workgroupBarrier();
    ${scoresOf('q', 'tileK', 'scores', dim, cols)}
    workgroupBarrier();
    var top = highest;
    for (var i = 0u; i < ${half}u; i++) {
      let s = s0 + 2u * i + lane % 2u;
      if (s < end && isVisible(head, t, s, segment)) { top = max(top, scores[mine + 2u * i]); }
    }
    total *= exp(highest - top);
    for (var i = 0u; i < ${half}u; i++) {
      let s = s0 + 2u * i + lane % 2u;
      if (s < end && isVisible(head, t, s, segment)) { total += exp(scores[mine + 2u * i] - top); }
    }
    highest = top;
  }
  let both = max(highest, subgroupShuffleXor(highest, 1u));
  total *= exp(highest - both);
  total += subgroupShuffleXor(total, 1u);
  let logSum = select(3.0e38, both + log(total), total > 0.0); // 3e38: sees nothing
  if (t < u.length && lane % 2u == 0u) { logSums[rowOfHead + t] = logSum; }
  ${times(dim / 16, (d) => `var out${d}: Sum;`)}
  let weightAt = subgroup * ${16 * (cols + PADDING)}u + (lane / 2u) * ${cols + PADDING}u + lane % 2u;
  for (var s0 = 0u; s0 < end; s0 += ${cols}u) {
    workgroupBarrier();
    ${copy('tileK', 'key')}
    ${copy('tileV', 'value')}
    workgroupBarrier();
    ${scoresOf('q', 'tileK', 'scores', dim, cols)}
    workgroupBarrier();
    for (var i = 0u; i < ${half}u; i++) {
      let s = s0 + 2u * i + lane % 2u;
      let isSeen = s < end && isVisible(head, t, s, segment);
      weights[weightAt + 2u * i] = f16(select(0.0, exp(scores[mine + 2u * i] - logSum), isSeen));
    }
    workgroupBarrier();
    ${accumulate('out', 'weights', 'tileV', dim, cols)}
  }
  workgroupBarrier();
  ${writeRows('out', 'y', {dim, region: 16 * (cols + 4), base: 'rowOfHead', first: 'first', limit: 'u.length', scale: '1.0'})}
}`;
  runShader(backend, {
    name: 'MatrixAttention',
    code,
    outputs: [y, logSums],
    inputs: [query, key, value, ...(segments ? [segments] : [])],
    uniforms: uniformsOf(args),
    workgroups: [Math.ceil(length / ROWS), batch * heads],
  });
  return [y, logSums];
}

/** The gradient of the value as float16, each row scaled by a power of two so that its largest is between 1 and 2. */
interface PackedSlopes {
  halves: tf.TensorInfo;
  /** What a row must be multiplied by to get its values back, `[B·H·T]`. */
  scales: tf.TensorInfo;
  /** Σ dy · y of a row, over its scale. */
  along: tf.TensorInfo;
}

function packSlopes(backend: WebGPUBackend, dy: tf.TensorInfo, y: tf.TensorInfo): PackedSlopes {
  const dim = dy.shape[3];
  const rows = dy.shape[0] * dy.shape[1] * dy.shape[2];
  const halves = backend.makeTensorInfo([rows, dim / 2], 'int32');
  const scales = backend.makeTensorInfo([rows], 'float32');
  const along = backend.makeTensorInfo([rows], 'float32');
  const vectors = dim / 4;
  const code = `
enable f16;
enable subgroups;
@group(0) @binding(0) var<storage, read_write> halves: array<vec2u>;
@group(0) @binding(1) var<storage, read_write> scales: array<f32>;
@group(0) @binding(2) var<storage, read_write> along: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<vec4f>;
@group(0) @binding(4) var<storage, read> y: array<vec4f>;
struct Uniforms { rows: u32 }
@group(0) @binding(5) var<uniform> u: Uniforms;
${FLAT_ID}
@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  let row = min(flatId(group, groups) * 32u + local / 4u, u.rows - 1u); // four lanes share a row
  var largest = vec4f(0.0);
  var product = 0.0;
  for (var c = local % 4u; c < ${vectors}u; c += 4u) {
    let slope = dy[row * ${vectors}u + c];
    largest = max(largest, abs(slope));
    product += dot(slope, y[row * ${vectors}u + c]);
  }
  var top = max(max(largest.x, largest.y), max(largest.z, largest.w));
  top = max(top, subgroupShuffleXor(top, 1u));
  top = max(top, subgroupShuffleXor(top, 2u));
  product += subgroupShuffleXor(product, 1u);
  product += subgroupShuffleXor(product, 2u);
  let exponent = i32(bitcast<u32>(top) >> 23u) - 127;
  let shift = select(-exponent, 0, exponent < -119 || exponent > 126);
  let factor = bitcast<f32>(u32(shift + 127) << 23u);
  if (local % 4u == 0u) {
    scales[row] = select(bitcast<f32>(u32(127 - shift) << 23u), 0.0, top == 0.0);
    along[row] = product * factor;
  }
  for (var c = local % 4u; c < ${vectors}u; c += 4u) {
    halves[row * ${vectors}u + c] = bitcast<vec2u>(vec4<f16>(dy[row * ${vectors}u + c] * factor));
  }
}`;
  runShader(backend, {
    name: 'PackSlopes',
    code,
    outputs: [halves, scales, along],
    inputs: [dy, y],
    uniforms: [{u32: rows}],
    workgroups: flatWorkgroups(backend, Math.ceil(rows / 32)),
  });
  return {halves, scales, along};
}

/** The largest of some numbers from 0, `[1]`. */
function largestOf(backend: WebGPUBackend, values: tf.TensorInfo): tf.TensorInfo {
  const largest = backend.makeTensorInfo([1], 'float32');
  const code = `
@group(0) @binding(0) var<storage, read_write> largest: array<f32>;
@group(0) @binding(1) var<storage, read> values: array<f32>;
struct Uniforms { count: u32 }
@group(0) @binding(2) var<uniform> u: Uniforms;
var<workgroup> maxima: array<f32, 256>;
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) local: u32) {
  var top = 0.0;
  for (var i = local; i < u.count; i += 256u) { top = max(top, values[i]); }
  maxima[local] = top;
  workgroupBarrier();
  for (var width = 128u; width > 0u; width /= 2u) {
    if (local < width) { maxima[local] = max(maxima[local], maxima[local + width]); }
    workgroupBarrier();
  }
  if (local == 0u) { largest[0] = maxima[0]; }
}`;
  runShader(backend, {
    name: 'LargestScale',
    code,
    outputs: [largest],
    inputs: [values],
    uniforms: [{u32: values.shape[0]}],
    workgroups: [1],
  });
  return largest;
}

/**
 * Gradients of query, key and value by subgroup matrices. The gradient that comes in is scaled row by row for float16; where
 * rows are added up, each counts by its scale over the largest one.
 */
export function matrixAttentionGrad(backend: WebGPUBackend, args: AttentionArgs): tf.TensorInfo[] {
  const {inputs, attrs} = args;
  const {query, key, value, segments, dy, y, extra0: logSums} = inputs;
  const [batch, heads, length, dim] = query.shape;
  const [, groups, sourceLength] = key.shape;
  const cols = 32;
  const stride = dim + PADDING;
  const region = 16 * (cols + 4);
  const mask = segments ? [segments] : [];
  const slopes = packSlopes(backend, dy, y);
  const largest = largestOf(backend, slopes.scales);

  const dQuery = backend.makeTensorInfo(query.shape, 'float32');
  const keysOf = (tile: string, source: string) =>
    copyRows(tile, source, {rows: cols, dim, base: 'source', first: 's0', limit: 'u.sourceLength'});
  const queryCode = `${HEADER}
${preamble(args, ['dQuery: array<vec4f>'], ['query', 'key', 'value', 'slopes: array<vec2u>', 'logSums: array<f32>', 'along: array<f32>', 'scales: array<f32>'])}
var<workgroup> tileA: array<f16, ${ROWS * stride}>; // whole for the left side, then the first half for the right
var<workgroup> tileB: array<f16, ${cols * stride}>;
var<workgroup> scores: array<f32, ${ROWS * (cols + 4)}>;
var<workgroup> weights: array<f16, ${ROWS * (cols + PADDING)}>;
${MAIN}
  let first = (groups.x - 1u - group.x) * ${ROWS}u;
  let head = group.y;
  let source = sourceOf(head);
  let rowOfHead = head * u.length;
  ${copyRows('tileA', 'query', {rows: ROWS, dim, base: 'rowOfHead', first: 'first', limit: 'u.length', factor: 'u.scale'})}
  workgroupBarrier();
  ${loadLeft('q', 'tileA', dim)}
  workgroupBarrier();
  ${copyHalves('tileA', 'slopes', {rows: ROWS, dim, base: 'rowOfHead', first: 'first', limit: 'u.length'})}
  workgroupBarrier();
  ${loadLeft('g', 'tileA', dim)}
  let t = first + subgroup * 16u + lane / 2u;
  let row = rowOfHead + min(t, u.length - 1u);
  let segment = segmentOf(head, min(t, u.length - 1u) + u.past);
  let logSum = logSums[row];
  let product = along[row];
  let mine = subgroup * ${region}u + (lane / 2u) * ${cols + 4}u + lane % 2u;
  let weightAt = subgroup * ${16 * (cols + PADDING)}u + (lane / 2u) * ${cols + PADDING}u + lane % 2u;
  ${times(dim / 16, (d) => `var out${d}: Sum;`)}
  let end = ${attrs.causal ? `min(first + ${ROWS}u, u.length) + u.past` : 'u.sourceLength'};
  for (var s0 = 0u; s0 < end; s0 += ${cols}u) {
    workgroupBarrier();
    ${keysOf('tileA', 'key')}
    ${keysOf('tileB', 'value')}
    workgroupBarrier();
    ${scoresOf('q', 'tileA', 'scores', dim, cols)}
    workgroupBarrier();
    ${times(
      cols / 2,
      (i) => `
    var weight${i} = 0.0;
    {
      let s = s0 + ${2 * i}u + lane % 2u;
      if (s < end && isVisible(head, t, s, segment)) { weight${i} = exp(scores[mine + ${2 * i}u] - logSum); }
    }`,
    )}
    workgroupBarrier();
    ${scoresOf('g', 'tileB', 'scores', dim, cols)}
    workgroupBarrier();
    ${times(
      cols / 2,
      (i) =>
        `weights[weightAt + ${2 * i}u] = f16(clamp(weight${i} * (scores[mine + ${2 * i}u] - product), -65504.0, 65504.0));`,
    )}
    workgroupBarrier();
    ${accumulate('out', 'weights', 'tileA', dim, cols)}
  }
  workgroupBarrier();
  ${writeRows('out', 'dQuery', {dim, region, base: 'rowOfHead', first: 'first', limit: 'u.length', scale: '(u.scale * scales[rowOfHead + row])'})}
}`;
  runShader(backend, {
    name: 'MatrixAttentionGradQuery',
    code: queryCode,
    outputs: [dQuery],
    inputs: [query, key, value, slopes.halves, logSums, slopes.along, slopes.scales, ...mask],
    uniforms: uniformsOf(args),
    workgroups: [Math.ceil(length / ROWS), batch * heads],
  });

  const dKey = backend.makeTensorInfo(key.shape, 'float32');
  const dValue = backend.makeTensorInfo(value.shape, 'float32');
  // Rows are keys here, columns queries.
  const keyCode = `${HEADER}
${preamble(args, ['dKey: array<vec4f>', 'dValue: array<vec4f>'], ['query', 'key', 'value', 'slopes: array<vec2u>', 'logSums: array<f32>', 'along: array<f32>', 'scales: array<f32>', 'largest: array<f32>'])}
var<workgroup> tileA: array<f16, ${ROWS * stride}>;
var<workgroup> tileB: array<f16, ${cols * stride}>;
var<workgroup> scores: array<f32, ${ROWS * (cols + 4)}>;
var<workgroup> weights: array<f16, ${ROWS * (cols + PADDING)}>;
var<workgroup> changes: array<f16, ${ROWS * (cols + PADDING)}>;
var<workgroup> queryLogs: array<f32, ${cols}>;
var<workgroup> queryAlong: array<f32, ${cols}>;
var<workgroup> queryFactors: array<f32, ${cols}>;
${MAIN}
  let first = group.x * ${ROWS}u;
  let source = group.y * u.sourceLength;
  let sharing = u.heads / u.groups;
  ${copyRows('tileA', 'key', {rows: ROWS, dim, base: 'source', first: 'first', limit: 'u.sourceLength'})}
  workgroupBarrier();
  ${loadLeft('k', 'tileA', dim)}
  workgroupBarrier();
  ${copyRows('tileA', 'value', {rows: ROWS, dim, base: 'source', first: 'first', limit: 'u.sourceLength'})}
  workgroupBarrier();
  ${loadLeft('v', 'tileA', dim)}
  let s = first + subgroup * 16u + lane / 2u;
  let mine = subgroup * ${region}u + (lane / 2u) * ${cols + 4}u + lane % 2u;
  let weightAt = subgroup * ${16 * (cols + PADDING)}u + (lane / 2u) * ${cols + PADDING}u + lane % 2u;
  let unit = select(1.0, 1.0 / largest[0], largest[0] > 0.0);
  ${times(dim / 16, (d) => `var outK${d}: Sum; var outV${d}: Sum;`)}
  for (var h = 0u; h < sharing; h++) {
    let head = group.y * sharing + h;
    let rowOfHead = head * u.length;
    for (var t0 = ${attrs.causal ? 'first - min(first, u.past)' : '0u'}; t0 < u.length; t0 += ${cols}u) {
      workgroupBarrier();
      ${copyRows('tileA', 'query', {rows: cols, dim, base: 'rowOfHead', first: 't0', limit: 'u.length', factor: 'u.scale'})}
      if (local < ${cols}u) {
        let row = rowOfHead + min(t0 + local, u.length - 1u);
        queryLogs[local] = logSums[row];
        queryAlong[local] = along[row];
        queryFactors[local] = scales[row] * unit;
      }
      workgroupBarrier();
      ${scoresOf('k', 'tileA', 'scores', dim, cols)}
      workgroupBarrier();
      ${times(
        cols / 2,
        (i) => `
      var weight${i} = 0.0;
      {
        let t = t0 + ${2 * i}u + lane % 2u;
        if (t < u.length && s < u.sourceLength && isVisible(head, t, s, segmentOf(head, t + u.past))) {
          weight${i} = exp(scores[mine + ${2 * i}u] - queryLogs[${2 * i}u + lane % 2u]) * queryFactors[${2 * i}u + lane % 2u];
        }
      }`,
      )}
      workgroupBarrier();
      ${copyHalves('tileB', 'slopes', {rows: cols, dim, base: 'rowOfHead', first: 't0', limit: 'u.length'})}
      workgroupBarrier();
      ${scoresOf('v', 'tileB', 'scores', dim, cols)}
      workgroupBarrier();
      ${times(
        cols / 2,
        (i) => `
      weights[weightAt + ${2 * i}u] = f16(weight${i});
      changes[weightAt + ${2 * i}u] = f16(clamp(weight${i} * (scores[mine + ${2 * i}u] - queryAlong[${2 * i}u + lane % 2u]), -65504.0, 65504.0));`,
      )}
      workgroupBarrier();
      ${accumulate('outV', 'weights', 'tileB', dim, cols)}
      ${accumulate('outK', 'changes', 'tileA', dim, cols)}
    }
  }
  workgroupBarrier();
  ${writeRows('outK', 'dKey', {dim, region, base: 'source', first: 'first', limit: 'u.sourceLength', scale: 'largest[0]'})}
  ${writeRows('outV', 'dValue', {dim, region, base: 'source', first: 'first', limit: 'u.sourceLength', scale: 'largest[0]'})}
}`;
  runShader(backend, {
    name: 'MatrixAttentionGradKeyValue',
    code: keyCode,
    outputs: [dKey, dValue],
    inputs: [query, key, value, slopes.halves, logSums, slopes.along, slopes.scales, largest, ...mask],
    uniforms: uniformsOf(args),
    workgroups: [Math.ceil(sourceLength / ROWS), batch * groups],
  });
  for (const {dataId} of [slopes.halves, slopes.scales, slopes.along, largest]) backend.disposeData(dataId);
  return [dQuery, dKey, dValue];
}
