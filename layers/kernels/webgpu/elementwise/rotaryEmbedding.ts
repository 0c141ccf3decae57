import type * as tf from '@tensorflow/tfjs';
import {FLAT_ID, flatWorkgroups, runShader} from '../device/runShader.ts';
import {shaderText} from '../device/shaderText.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

interface RotaryEmbeddingArgs {
  inputs: {x: tf.TensorInfo; cos: tf.TensorInfo; sin: tf.TensorInfo; dy: tf.TensorInfo};
  backend: unknown;
}

const WORKGROUP = 256;

/** `RotaryEmbedding` (layers/ops/rotaryEmbedding.ts), a thread per pair. */
export const rotaryEmbedding = {
  kernelName: 'RotaryEmbedding',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, backend} = args as RotaryEmbeddingArgs;
    return rotate(backend as WebGPUBackend, 'RotaryEmbedding', inputs.x, inputs, 1);
  },
} as const;

/** The gradient of `x`: turning back. */
export const rotaryEmbeddingGrad = {
  kernelName: 'RotaryEmbeddingGrad',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, backend} = args as RotaryEmbeddingArgs;
    return [rotate(backend as WebGPUBackend, 'RotaryEmbeddingGrad', inputs.dy, inputs, -1)];
  },
} as const;

function rotate(
  backend: WebGPUBackend,
  name: string,
  x: tf.TensorInfo,
  {cos, sin}: {cos: tf.TensorInfo; sin: tf.TensorInfo},
  direction: 1 | -1,
): tf.TensorInfo {
  const [batch, heads, length, dim] = x.shape;
  const half = dim / 2;
  const y = backend.makeTensorInfo(x.shape, 'float32');
  const count = batch * heads * length * half;
  if (count === 0) return y;
  const code = shaderText(
    'RotaryEmbedding',
    () => `
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> cosines: array<f32>;
@group(0) @binding(3) var<storage, read> sines: array<f32>;
struct Uniforms { count: u32, half: u32, length: u32, heads: u32, tableStride: u32, direction: f32 }
@group(0) @binding(4) var<uniform> u: Uniforms;
${FLAT_ID}
@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  let i = flatId(group, groups) * ${WORKGROUP}u + local;
  if (i >= u.count) { return; }
  let row = i / u.half; // of [B, H, T]
  let at = i % u.half;
  let turn = (row / u.length / u.heads) * u.tableStride + (row % u.length) * u.half + at;
  let c = cosines[turn];
  let s = sines[turn] * u.direction;
  let first = row * 2u * u.half + at;
  let a = x[first];
  let b = x[first + u.half];
  y[first] = a * c - b * s;
  y[first + u.half] = b * c + a * s;
}`,
  );
  runShader(backend, {
    name,
    code,
    outputs: [y],
    inputs: [x, cos, sin],
    uniforms: [
      {u32: count},
      {u32: half},
      {u32: length},
      {u32: heads},
      {u32: cos.shape[0] === 1 ? 0 : length * half},
      {f32: direction},
    ],
    workgroups: flatWorkgroups(backend, Math.ceil(count / WORKGROUP)),
  });
  return y;
}
