import * as tf from '@tensorflow/tfjs';
import {FLAT_ID, flatWorkgroups, runShader} from '../device/runShader.ts';
import {shaderText} from '../device/shaderText.ts';
import {sumOverWorkgroup} from '../device/sumOverWorkgroup.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

interface RMSNormArgs {
  inputs: {x: tf.TensorInfo; weight: tf.TensorInfo; dy: tf.TensorInfo};
  attrs: {epsilon: number};
  backend: unknown;
}

/** `RMSNorm` (layers/ops/rmsNorm.ts), a workgroup per row. */
export const rmsNorm = {
  kernelName: 'RMSNorm',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as RMSNormArgs;
    const {x, weight} = inputs;
    const body = `
  var squares = 0.0;
  for (var c = local; c < u.cols; c += WORKGROUP) { squares += x[at + c] * x[at + c]; }
  let inverseRms = inverseSqrt(sumOverWorkgroup(squares, local) / f32(u.cols) + u.epsilon);
  for (var c = local; c < u.cols; c += WORKGROUP) { y[at + c] = x[at + c] * inverseRms * weight[c]; }`;
    return runRows(backend as WebGPUBackend, 'RMSNorm', {x, weight}, attrs.epsilon, body);
  },
} as const;

/** The gradient of `x`; the weight is frozen where this runs. */
export const rmsNormGrad = {
  kernelName: 'RMSNormGrad',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as RMSNormArgs;
    const {x, weight, dy} = inputs;
    const body = `
  var squares = 0.0;
  var product = 0.0;
  for (var c = local; c < u.cols; c += WORKGROUP) {
    squares += x[at + c] * x[at + c];
    product += x[at + c] * dy[at + c] * weight[c];
  }
  let inverseRms = inverseSqrt(sumOverWorkgroup(squares, local) / f32(u.cols) + u.epsilon);
  let along = sumOverWorkgroup(product, local) * inverseRms * inverseRms / f32(u.cols);
  for (var c = local; c < u.cols; c += WORKGROUP) {
    y[at + c] = inverseRms * (dy[at + c] * weight[c] - x[at + c] * along);
  }`;
    return [runRows(backend as WebGPUBackend, 'RMSNormGrad', {x, weight, dy}, attrs.epsilon, body)];
  },
} as const;

function runRows(
  backend: WebGPUBackend,
  name: string,
  inputs: Record<string, tf.TensorInfo>,
  epsilon: number,
  body: string,
): tf.TensorInfo {
  const {shape} = inputs['x'];
  const cols = shape.at(-1) as number;
  const rows = tf.util.sizeFromShape(shape) / cols;
  const y = backend.makeTensorInfo(shape, 'float32');
  if (rows === 0) return y;
  const names = Object.keys(inputs);
  const code = shaderText(
    name,
    () => `
const WORKGROUP = 256u;
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
${names.map((input, i) => `@group(0) @binding(${i + 1}) var<storage, read> ${input}: array<f32>;`).join('\n')}
struct Uniforms { rows: u32, cols: u32, epsilon: f32 }
@group(0) @binding(${names.length + 1}) var<uniform> u: Uniforms;
${FLAT_ID}
${sumOverWorkgroup(256)}
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  let row = flatId(group, groups);
  if (row >= u.rows) { return; }
  let at = row * u.cols;
${body}
}`,
  );
  runShader(backend, {
    name,
    code,
    outputs: [y],
    inputs: Object.values(inputs),
    uniforms: [{u32: rows}, {u32: cols}, {f32: epsilon}],
    workgroups: flatWorkgroups(backend, rows),
  });
  return y;
}
