import type * as tf from '@tensorflow/tfjs';
import {FLAT_ID, flatWorkgroups, runShader} from '../device/runShader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/** The gradient of attention's result as float16, each row scaled by a power of two so that its largest is between 1 and 2. */
export interface PackedSlopes {
  /** int32 `[B·H·T, dim / 2]`. */
  halves: tf.TensorInfo;
  /** What a row must be multiplied by to get its values back, `[B·H·T]`. */
  scales: tf.TensorInfo;
  /** Σ dy · y of a row, over its scale. */
  along: tf.TensorInfo;
}

export function packSlopes(backend: WebGPUBackend, dy: tf.TensorInfo, y: tf.TensorInfo): PackedSlopes {
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
export function largestOf(backend: WebGPUBackend, values: tf.TensorInfo): tf.TensorInfo {
  const largest = backend.makeTensorInfo([1], 'float32');
  const threads = backend.device.limits.maxComputeInvocationsPerWorkgroup >= 1024 ? 1024 : 256;
  const code = `
@group(0) @binding(0) var<storage, read_write> largest: array<f32>;
@group(0) @binding(1) var<storage, read> values: array<f32>;
struct Uniforms { count: u32 }
@group(0) @binding(2) var<uniform> u: Uniforms;
var<workgroup> maxima: array<f32, ${threads}>;
@compute @workgroup_size(${threads})
fn main(@builtin(local_invocation_index) local: u32) {
  var top = 0.0;
  for (var i = local; i < u.count; i += ${4 * threads}u) { // four reads under way at once
    let last = u.count - 1u;
    let a = max(values[i], values[min(i + ${threads}u, last)]);
    top = max(top, max(a, max(values[min(i + ${2 * threads}u, last)], values[min(i + ${3 * threads}u, last)])));
  }
  maxima[local] = top;
  workgroupBarrier();
  for (var width = ${threads / 2}u; width > 0u; width /= 2u) {
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
