import * as tf from '@tensorflow/tfjs';
import {runShader} from '../device/runShader.ts';
import {shaderText} from '../device/shaderText.ts';
import {sumOverWorkgroup} from '../device/sumOverWorkgroup.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

interface GlobalNormArgs {
  inputs: tf.TensorInfo[];
  backend: unknown;
}

/** Tensors in a dispatch where the device does not bind fewer. */
const MAX_AT_ONCE = 15;

/** Workgroups that share a tensor. */
const SHARES = 32;

/** `GlobalNorm` (layers/ops/globalNorm.ts): as many tensors in a dispatch as the device binds, then a sum of their sums. */
export const globalNorm = {
  kernelName: 'GlobalNorm',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, backend: anyBackend} = args as GlobalNormArgs;
    const backend = anyBackend as WebGPUBackend;
    const tensors = Object.values(inputs);
    const atOnce = Math.min(MAX_AT_ONCE, backend.device.limits.maxStorageBuffersPerShaderStage - 1);
    const partial = backend.makeTensorInfo([tensors.length, SHARES], 'float32');
    for (let first = 0; first < tensors.length; first += atOnce) {
      const given = tensors.slice(first, first + atOnce);
      runShader(backend, {
        name: 'SumSquares',
        code: shaderText(`SumSquares ${given.length}`, () => sumSquares(given.length)),
        outputs: [partial],
        inputs: given,
        uniforms: [{u32: first}, ...given.map(({shape}) => ({u32: tf.util.sizeFromShape(shape)}))],
        workgroups: [SHARES, given.length],
      });
    }
    const norm = backend.makeTensorInfo([], 'float32');
    runShader(backend, {
      name: 'RootOfSum',
      code: shaderText('RootOfSum', () => ROOT_OF_SUM),
      outputs: [norm],
      inputs: [partial],
      uniforms: [{u32: tensors.length * SHARES}],
      workgroups: [1],
    });
    backend.disposeData(partial.dataId);
    return norm;
  },
} as const;

function sumSquares(count: number): string {
  return `
@group(0) @binding(0) var<storage, read_write> sums: array<f32>;
${times(count, (i) => `@group(0) @binding(${i + 1}) var<storage, read> x${i}: array<f32>;`)}
struct Uniforms { first: u32, ${times(count, (i) => `size${i}: u32,`)} }
@group(0) @binding(${count + 1}) var<uniform> u: Uniforms;
${sumOverWorkgroup(256)}
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
  var sum = 0.0;
  let begin = group.x * 256u + local;
  switch group.y {
    ${times(count, (i) => `case ${i}u: { for (var j = begin; j < u.size${i}; j += ${256 * SHARES}u) { sum += x${i}[j] * x${i}[j]; } }`)}
    default: {}
  }
  let total = sumOverWorkgroup(sum, local);
  if (local == 0u) { sums[(u.first + group.y) * ${SHARES}u + group.x] = total; }
}`;
}

const ROOT_OF_SUM = `
@group(0) @binding(0) var<storage, read_write> norm: array<f32>;
@group(0) @binding(1) var<storage, read> sums: array<f32>;
struct Uniforms { count: u32 }
@group(0) @binding(2) var<uniform> u: Uniforms;
${sumOverWorkgroup(256)}
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) local: u32) {
  var sum = 0.0;
  for (var j = local; j < u.count; j += 256u) { sum += sums[j]; }
  let total = sumOverWorkgroup(sum, local);
  if (local == 0u) { norm[0] = sqrt(total); }
}`;
