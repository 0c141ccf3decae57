import type * as tf from '@tensorflow/tfjs';
import {FLAT_ID, flatWorkgroups, runShader} from './runShader.ts';
import type {WebGPUBackend} from './webgpuBackend.ts';

/**
 * `factor · x` as float16, two in a word; what is beyond float16's largest becomes it.
 *
 * @param x float32 `[…, cols]`, `cols` a multiple of 8
 * @returns int32 `[rows, cols / 2]`. The caller disposes it
 */
export function packHalves(backend: WebGPUBackend, x: tf.TensorInfo, factor: number): tf.TensorInfo {
  const cols = x.shape[x.shape.length - 1];
  const rows = x.shape.slice(0, -1).reduce((product, size) => product * size, 1);
  const halves = backend.makeTensorInfo([rows, cols / 2], 'int32');
  const octets = (rows * cols) / 8;
  const code = `
enable f16;
@group(0) @binding(0) var<storage, read_write> halves: array<vec4u>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
struct Uniforms { octets: u32, factor: f32 }
@group(0) @binding(2) var<uniform> u: Uniforms;
${FLAT_ID}
fn half4(v: vec4f) -> vec2u {
  return bitcast<vec2u>(vec4<f16>(clamp(v * u.factor, vec4f(-65504.0), vec4f(65504.0))));
}
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  let i = flatId(group, groups) * 256u + local;
  if (i < u.octets) { halves[i] = vec4u(half4(x[2u * i]), half4(x[2u * i + 1u])); }
}`;
  runShader(backend, {
    name: 'PackHalves',
    code,
    outputs: [halves],
    inputs: [x],
    uniforms: [{u32: octets}, {f32: factor}],
    workgroups: flatWorkgroups(backend, Math.ceil(octets / 256)),
  });
  return halves;
}
