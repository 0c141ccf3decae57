import type * as tf from '@tensorflow/tfjs';
import {runShader} from '../device/runShader.ts';
import {shaderText} from '../device/shaderText.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

interface DecodeAttentionArgs {
  inputs: Record<'query' | 'key' | 'value' | 'cos' | 'sin' | 'keys' | 'values', tf.TensorInfo> & {
    segments?: tf.TensorInfo;
  };
  attrs: {past: number; scale: number};
  backend: unknown;
}

/** Threads of a workgroup; each scores one key of a tile of as many. */
const THREADS = 128;

/**
 * `DecodeAttention` (layers/ops/decodeAttention.ts), a workgroup per query head. The first head of a group writes the new
 * key and value into the cache; all take them from the inputs, so that none waits for another.
 *
 * Softmax runs along the tiles as in `Attention`; a thread adds up one vector of the values, of every so many keys.
 */
export const decodeAttention = {
  kernelName: 'DecodeAttention',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as DecodeAttentionArgs;
    const backend = anyBackend as WebGPUBackend;
    const {query, key, value, cos, sin, keys, values, segments} = inputs;
    const [batch, groups, capacity, dim] = keys.shape;
    const heads = query.shape[1] / dim;
    const y = backend.makeTensorInfo(query.shape, 'float32');
    const isJoined = segments !== undefined && backend.device.limits.maxStorageBuffersPerShaderStage < 9;
    const tables = isJoined ? [joined(backend, cos, sin)] : [cos, sin];
    const code = shaderText(`DecodeAttention ${dim} ${segments !== undefined} ${isJoined}`, () =>
      shader(dim, segments !== undefined, isJoined),
    );
    runShader(backend, {
      name: 'DecodeAttention',
      code,
      outputs: [y, keys, values],
      inputs: [query, key, value, ...tables, ...(segments ? [segments] : [])],
      uniforms: [
        {u32: heads},
        {u32: groups},
        {u32: attrs.past, step: 1},
        {u32: capacity},
        {u32: segments?.shape[1] ?? 0},
        {u32: cos.shape[0] === 1 ? 0 : dim / 2},
        {f32: attrs.scale},
      ],
      workgroups: [heads, batch],
    });
    if (isJoined) backend.disposeData(tables[0].dataId);
    for (const {dataId} of [keys, values]) backend.incRef(dataId);
    const same = ({dataId, shape, dtype}: tf.TensorInfo) => ({dataId, shape, dtype});
    return [y, same(keys), same(values)];
  },
} as const;

/** Both tables in one buffer, for devices that bind no more than WebGPU promises: eight. */
function joined(backend: WebGPUBackend, cos: tf.TensorInfo, sin: tf.TensorInfo): tf.TensorInfo {
  const size = cos.shape.reduce((product, length) => product * length, 1);
  const tables = backend.makeTensorInfo([2, size], 'float32');
  runShader(backend, {
    name: 'JoinTables',
    code: shaderText('JoinTables', () => JOIN),
    outputs: [tables],
    inputs: [cos, sin],
    workgroups: [Math.ceil(size / 64)],
  });
  return tables;
}

const JOIN = `
@group(0) @binding(0) var<storage, read_write> tables: array<f32>;
@group(0) @binding(1) var<storage, read> cosines: array<f32>;
@group(0) @binding(2) var<storage, read> sines: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let count = arrayLength(&tables) / 2u;
  if (id.x >= count) { return; }
  tables[id.x] = cosines[id.x];
  tables[count + id.x] = sines[id.x];
}`;

function shader(dim: number, hasSegments: boolean, isJoined: boolean): string {
  const bindings = [
    ...['query: array<f32>', 'key: array<f32>', 'value: array<vec4f>'],
    ...(isJoined ? ['tables: array<f32>'] : ['cosines: array<f32>', 'sines: array<f32>']),
    ...(hasSegments ? ['segments: array<i32>'] : []),
  ];
  const parts = Math.floor(THREADS / (dim / 4));
  return `
const D = ${dim}u;
const V = D / 4u; // vectors in a head
const PARTS = ${parts}u; // threads that share a vector of the sum
@group(0) @binding(0) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> keys: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> values: array<vec4f>;
${bindings.map((binding, i) => `@group(0) @binding(${3 + i}) var<storage, read> ${binding};`).join('\n')}
struct Uniforms { heads: u32, groups: u32, past: u32, capacity: u32, segmentStride: u32, tableStride: u32, scale: f32 }
@group(0) @binding(${3 + bindings.length}) var<uniform> u: Uniforms;
var<workgroup> turned: array<vec2f, D>; // query and key
var<workgroup> q: array<vec4f, V>;
var<workgroup> newKey: array<vec4f, V>;
var<workgroup> scores: array<f32, ${THREADS}>;
var<workgroup> maxima: array<f32, ${THREADS}>;
var<workgroup> sums: array<vec4f, ${THREADS}>;
fn isVisible(b: u32, s: u32) -> bool {
  ${
    hasSegments
      ? `let own = segments[b * u.segmentStride + u.past];
  return own != 0 && segments[b * u.segmentStride + s] == own;`
      : 'return true;'
  }
}
@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  let head = group.x;
  let b = group.y;
  let sharing = u.heads / u.groups;
  let source = b * u.groups + head / sharing;
  if (local < D) { // turned by the position
    let pair = local % (D / 2u);
    let at = b * u.tableStride + pair;
    let c = ${isJoined ? 'tables[at]' : 'cosines[at]'};
    let s = select(-1.0, 1.0, local >= D / 2u) * ${isJoined ? 'tables[arrayLength(&tables) / 2u + at]' : 'sines[at]'};
    let other = (local + D / 2u) % D;
    let fromQuery = (b * u.heads + head) * D;
    let fromKey = source * D;
    turned[local] = vec2f(
      (query[fromQuery + local] * c + query[fromQuery + other] * s) * u.scale,
      key[fromKey + local] * c + key[fromKey + other] * s,
    );
  }
  workgroupBarrier();
  if (local < V) {
    let at = local * 4u;
    q[local] = vec4f(turned[at].x, turned[at + 1u].x, turned[at + 2u].x, turned[at + 3u].x);
    newKey[local] = vec4f(turned[at].y, turned[at + 1u].y, turned[at + 2u].y, turned[at + 3u].y);
  }
  workgroupBarrier();
  let cache = source * u.capacity;
  if (head % sharing == 0u && local < V) {
    keys[(cache + u.past) * V + local] = newKey[local];
    values[(cache + u.past) * V + local] = value[source * V + local];
  }
  let column = local % V;
  let part = local / V;
  var sum = vec4f(0.0);
  var total = 0.0;
  var highest = -3.0e38;
  for (var s0 = 0u; s0 <= u.past; s0 += ${THREADS}u) {
    let s = s0 + local;
    var score = -3.0e38;
    if (s <= u.past && isVisible(b, s)) {
      score = 0.0;
      if (s == u.past) {
        for (var d = 0u; d < V; d++) { score += dot(q[d], newKey[d]); }
      } else {
        for (var d = 0u; d < V; d++) { score += dot(q[d], keys[(cache + s) * V + d]); }
      }
    }
    maxima[local] = score;
    workgroupBarrier();
    for (var width = ${THREADS / 2}u; width > 0u; width /= 2u) {
      if (local < width) { maxima[local] = max(maxima[local], maxima[local + width]); }
      workgroupBarrier();
    }
    let next = max(highest, maxima[0]);
    scores[local] = select(0.0, exp(score - next), score > -3.0e38);
    workgroupBarrier();
    let keep = exp(highest - next);
    highest = next;
    sum *= keep;
    total *= keep;
    for (var j = part; j < ${THREADS}u && s0 + j <= u.past; j += PARTS) {
      let weight = scores[j];
      total += weight;
      if (s0 + j == u.past) { sum += weight * value[source * V + column]; }
      else { sum += weight * values[(cache + s0 + j) * V + column]; }
    }
    workgroupBarrier();
  }
  sums[local] = sum;
  maxima[local] = total;
  workgroupBarrier();
  if (local < V) {
    for (var p = 1u; p < PARTS; p++) {
      sum += sums[p * V + local];
      total += maxima[p * V + local];
    }
    y[(b * u.heads + head) * V + local] = sum * select(0.0, 1.0 / total, total > 0.0);
  }
}`;
}
