import * as tf from '@tensorflow/tfjs';
import type {AdamWSettings} from '../../../ops/adamWUpdate.ts';
import {runShader} from '../device/runShader.ts';
import {shaderText} from '../device/shaderText.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {ownTensor} from '../elementwise/elementwise.ts';
import {BODY, factorsOf} from './adamWUpdate.ts';

interface AdamWUpdatesArgs {
  inputs: tf.TensorInfo[];
  attrs: AdamWSettings;
  backend: unknown;
}

/** Tensors of one variable: value, gradient, mean, variance. */
const PER_VARIABLE = 4;

/** `AdamWUpdates` (layers/ops/adamWUpdates.ts): as many variables in a dispatch as the device binds. */
export const adamWUpdates = {
  kernelName: 'AdamWUpdates',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as AdamWUpdatesArgs;
    const backend = anyBackend as WebGPUBackend;
    const tensors = Object.values(inputs);
    const atOnce = Math.floor(backend.device.limits.maxStorageBuffersPerShaderStage / PER_VARIABLE);
    const factors = factorsOf(attrs);
    const outputs: tf.TensorInfo[] = [];
    for (let first = 0; first < tensors.length; first += PER_VARIABLE * atOnce) {
      const given = tensors.slice(first, first + PER_VARIABLE * atOnce);
      const count = given.length / PER_VARIABLE;
      const gradients = given.filter((_, i) => i % PER_VARIABLE === 1);
      const own = given
        .filter((_, i) => i % PER_VARIABLE !== 1)
        .map((tensor) => ownTensor(backend, tensor, attrs.overwrite ?? false));
      const sizes = gradients.map(({shape}) => tf.util.sizeFromShape(shape));
      outputs.push(...own);
      runShader(backend, {
        name: 'AdamWUpdate',
        code: shaderText(`AdamWUpdates ${count}`, () => textOf(count, Object.keys(factors))),
        outputs: own,
        inputs: gradients,
        uniforms: [...sizes.map((u32) => ({u32})), ...Object.values(factors).map((f32) => ({f32}))],
        workgroups: [Math.min(MAX_GROUPS, Math.ceil(Math.max(...sizes) / THREADS)), count],
      });
    }
    return outputs;
  },
} as const;

const THREADS = 256;
/** Workgroups that share a variable. */
const MAX_GROUPS = 1024;

function textOf(count: number, factors: string[]): string {
  const binding = (at: number, access: string, name: string) =>
    `@group(0) @binding(${at}) var<storage, ${access}> ${name}: array<f32>;`;
  return `
${times(count, (k) => ['value', 'mean', 'variance'].map((name, i) => binding(3 * k + i, 'read_write', `${name}${k}`)).join('\n'))}
${times(count, (k) => binding(3 * count + k, 'read', `gradient${k}`))}
struct Uniforms { ${Array.from({length: count}, (_, k) => `size${k}: u32,`).join(' ')} ${factors.map((name) => `${name}: f32,`).join(' ')} }
@group(0) @binding(${PER_VARIABLE * count}) var<uniform> u: Uniforms;
@compute @workgroup_size(${THREADS})
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let stride = groups.x * ${THREADS}u;
  switch (id.y) {
    ${times(
      count,
      (k) => `case ${k}u: {
      for (var i = id.x; i < u.size${k}; i += stride) {${BODY.replace(/(value|mean|variance|gradient)\[/g, `$1${k}[`)}
      }
    }`,
    )}
    default: {}
  }
}`;
}
