import type * as tf from '@tensorflow/tfjs';
import type {ScoreSettings} from '../../../ops/attention.ts';
import {decodeAttentionOp} from '../../../ops/decodeAttention.ts';
import type {Tensors} from '../../../ops/op.ts';
import {kernel} from '../../kernel.ts';
import type {RowsView} from '../device/rowsView.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/** Number of threads in a workgroup, which every device has; each scores one key of a tile of the same size. */
const THREADS = 256;
/** Number of values that a thread reads together, because it would wait for each of them otherwise. */
const TOGETHER = 8;

/**
 * `DecodeAttention` (layers/ops/decodeAttention.ts), a workgroup per query head. The first head of a group writes the
 * new key and value into the cache; all heads take them from the inputs, so that none waits for another.
 *
 * Softmax runs along the tiles as in `Attention`; a thread adds up one vector of the values, for every n-th key.
 */
export const decodeAttention = kernel(decodeAttentionOp, 'webgpu', ({inputs, attrs, backend}) => {
  const y = attendOnce(backend, inputs, attrs);
  const {keys, values} = inputs;
  for (const {dataId} of [keys, values]) backend.incRef(dataId);
  const same = ({dataId, shape, dtype}: tf.TensorInfo) => ({dataId, shape, dtype});
  return [y, same(keys), same(values)];
});

/** Computes {@link decodeAttention}'s first result, and writes the new position into `keys` and `values`. */
export function attendOnce(
  backend: WebGPUBackend,
  {
    query,
    key,
    value,
    cos,
    sin,
    keys,
    values,
    segments,
  }: Record<'query' | 'key' | 'value', RowsView> &
    Tensors<'cos' | 'sin' | 'keys' | 'values'> & {segments?: tf.TensorInfo},
  attrs: ScoreSettings & {past: number},
): tf.TensorInfo {
  const [batch, groups, capacity, dim] = keys.shape;
  const heads = query.shape[1] / dim;
  const y = backend.makeTensorInfo(query.shape, 'float32');
  const isJoined = segments !== undefined && backend.device.limits.maxStorageBuffersPerShaderStage < 9;
  const tables = isJoined ? joined(backend, cos, sin) : undefined;
  runShader(backend, {
    shader: oneStep(dim, segments !== undefined, isJoined, attrs.window > 0, attrs.softCap > 0),
    buffers: {y, keys, values, query, key, value, tables, cosines: cos, sines: sin, segments},
    uniforms: {
      heads,
      groups,
      past: attrs.past,
      capacity,
      segmentStride: segments?.shape[1] ?? 0,
      tableStride: cos.shape[0] === 1 ? 0 : dim / 2,
      scale: attrs.scale,
      window: attrs.window,
      softCap: attrs.softCap,
    },
    workgroups: [heads, batch],
  });
  if (tables) backend.disposeData(tables.dataId);
  return y;
}

/** Copies both tables into one buffer, for devices that bind only the eight buffers that WebGPU guarantees. */
function joined(backend: WebGPUBackend, cosines: tf.TensorInfo, sines: tf.TensorInfo): tf.TensorInfo {
  const size = cosines.shape.reduce((product, length) => product * length, 1);
  const tables = backend.makeTensorInfo([2, size], 'float32');
  runShader(backend, {shader: join(), buffers: {tables, cosines, sines}, uniforms: {}, threads: size});
  return tables;
}

const join = shader(() => ({
  name: 'JoinTables',
  outputs: {tables: 'f32'},
  inputs: {cosines: 'f32', sines: 'f32'},
  workgroup: 64,
  body: `
  let i = flatGroup * WORKGROUP + local;
  let count = arrayLength(&tables) / 2u;
  if (i >= count) { return; }
  tables[i] = cosines[i];
  tables[count + i] = sines[i];`,
}));

const oneStep = shader(
  (dim: number, hasSegments: boolean, isJoined: boolean, hasWindow: boolean, isCapped: boolean) => ({
    name: 'DecodeAttention',
    outputs: {y: 'vec4f', keys: 'vec4f', values: 'vec4f'},
    inputs: {
      query: 'f32',
      key: 'f32',
      value: 'vec4f',
      tables: isJoined ? 'f32' : undefined,
      cosines: isJoined ? undefined : 'f32',
      sines: isJoined ? undefined : 'f32',
      segments: hasSegments ? 'i32' : undefined,
    },
    uniforms: {
      heads: 'u32',
      groups: 'u32',
      past: 'counter',
      capacity: 'u32',
      segmentStride: 'u32',
      tableStride: 'u32',
      scale: 'f32',
      window: 'u32',
      softCap: 'f32',
    },
    workgroup: THREADS,
    globals: `
const D = ${dim}u;
const V = D / 4u; // vectors in a head
const PARTS = ${Math.floor(THREADS / (dim / 4))}u; // threads that share a vector of the sum
var<workgroup> turned: array<vec2f, D>; // rotated query and key
var<workgroup> q: array<vec4f, V>;
var<workgroup> newKey: array<vec4f, V>;
var<workgroup> scores: array<f32, WORKGROUP>;
var<workgroup> maxima: array<f32, WORKGROUP>;
var<workgroup> sums: array<vec4f, WORKGROUP>;
fn bounded(score: f32) -> f32 {
  return ${isCapped ? 'u.softCap * tanh(clamp(score / u.softCap, -15.0, 15.0))' : 'score'};
}
fn isVisible(b: u32, s: u32) -> bool {
  ${
    hasSegments
      ? `let own = segments[b * u.segmentStride + u.past];
  return own != 0 && segments[b * u.segmentStride + s] == own;`
      : 'return true;'
  }
}`,
    body: `
  let head = group.x;
  let b = group.y;
  let sharing = u.heads / u.groups;
  let source = b * u.groups + head / sharing;
  if (local < D) { // rotated by the position
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
  ${attendFrom(hasWindow ? 'max(u.past + 1u, u.window) - u.window' : '0u')}`,
  }),
);

/** WGSL after the rotation, for a tile with as many keys as there are threads at a time, from key `start` on. */
const attendFrom = (start: string): string => `
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
  for (var s0 = ${start}; s0 <= u.past; s0 += WORKGROUP) {
    let s = s0 + local;
    var score = -3.0e38;
    if (s <= u.past && isVisible(b, s)) {
      score = 0.0;
      if (s == u.past) {
        for (var d = 0u; d < V; d++) { score += dot(q[d], newKey[d]); }
      } else {
        for (var d = 0u; d < V; d++) { score += dot(q[d], keys[(cache + s) * V + d]); }
      }
      score = bounded(score);
    }
    maxima[local] = score;
    workgroupBarrier();
    for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
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
    let count = min(WORKGROUP, u.past - s0); // of values in the cache; the new one may not be there yet
    for (var j = part; j < count; j += ${TOGETHER}u * PARTS) {
      ${times(TOGETHER, (e) => `let value${e} = values[(cache + s0 + min(j + ${e}u * PARTS, count - 1u)) * V + column];`)}
      ${times(
        TOGETHER,
        (e) => `{
        let weight = select(0.0, scores[min(j + ${e}u * PARTS, count - 1u)], j + ${e}u * PARTS < count);
        total += weight;
        sum += weight * value${e};
      }`,
      )}
    }
    if (count < WORKGROUP && part == 0u) {
      total += scores[count];
      sum += scores[count] * value[source * V + column];
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
  }`;
