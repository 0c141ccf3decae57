import type * as tf from '@tensorflow/tfjs';
import {FLAT_ID, flatWorkgroups, runShader} from '../device/runShader.ts';
import {shaderText} from '../device/shaderText.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/**
 * Some tensors, each times a factor, as float16, two in a word, by one dispatch; what is beyond float16's largest becomes it.
 *
 * @param given float32 `[…, cols]`, `cols` a multiple of 8, and its factor
 * @returns for each int32 `[rows, cols / 2]`. The caller disposes them
 */
export function packHalves(
  backend: WebGPUBackend,
  given: [x: tf.TensorInfo, factor: number][],
): tf.TensorInfo[] {
  const halves = given.map(([{shape}]) => {
    const cols = shape[shape.length - 1];
    const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1);
    return backend.makeTensorInfo([rows, cols / 2], 'int32');
  });
  const octets = halves.map(({shape: [rows, words]}) => (rows * words) / 4);
  const count = given.length;
  const code = shaderText(
    `PackHalves ${count}`,
    () => `
enable f16;
${times(count, (k) => `@group(0) @binding(${k}) var<storage, read_write> halves${k}: array<vec4u>;`)}
${times(count, (k) => `@group(0) @binding(${count + k}) var<storage, read> x${k}: array<vec4f>;`)}
struct Uniforms { ${Array.from({length: count}, (_, k) => `octets${k}: u32, factor${k}: f32`).join(', ')} }
@group(0) @binding(${2 * count}) var<uniform> u: Uniforms;
${FLAT_ID}
fn half4(v: vec4f) -> vec2u { return bitcast<vec2u>(vec4<f16>(clamp(v, vec4f(-65504.0), vec4f(65504.0)))); }
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  var i = flatId(group, groups) * 256u + local;
  ${times(
    count,
    (k) => `if (i < u.octets${k}) {
    halves${k}[i] = vec4u(half4(u.factor${k} * x${k}[2u * i]), half4(u.factor${k} * x${k}[2u * i + 1u]));
    return;
  }
  i -= u.octets${k};`,
  )}
}`,
  );
  runShader(backend, {
    name: 'PackHalves',
    code,
    outputs: halves,
    inputs: given.map(([x]) => x),
    uniforms: given.flatMap(([, factor], k) => [{u32: octets[k]}, {f32: factor}]),
    workgroups: flatWorkgroups(backend, Math.ceil(octets.reduce((sum, n) => sum + n, 0) / 256)),
  });
  return halves;
}
