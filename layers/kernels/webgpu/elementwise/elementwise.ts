import * as tf from '@tensorflow/tfjs';
import {FLAT_ID, flatWorkgroups, runShader, type ShaderCall} from '../device/runShader.ts';
import {shaderText} from '../device/shaderText.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

const WORKGROUP = 256;

/**
 * One thread per element, or per four where the size allows: `body` computes element `i` of the outputs from element `i`
 * of the inputs, in the type `V`, `f32` or `vec4f`.
 *
 * @param name with the inputs' names it stands for `body`: the same ones must mean the same text
 * @param outputs names, in WGSL, of float32 outputs of the shape of `inputs[0]`
 * @param inputs float32 tensors of one size, by name
 * @param body WGSL statements
 * @param uniforms float32 constants, by name; in WGSL `u.<name>`
 */
export function runElementwise(
  backend: WebGPUBackend,
  name: string,
  outputs: string[],
  inputs: Record<string, tf.TensorInfo>,
  body: string,
  uniforms: Record<string, number> = {},
): tf.TensorInfo[] {
  const [{shape}] = Object.values(inputs);
  const made = outputs.map(() => backend.makeTensorInfo(shape, 'float32'));
  const named = Object.fromEntries(outputs.map((output, i) => [output, made[i]]));
  record(backend, name, named, inputs, body, uniforms);
  return made;
}

/**
 * {@link runElementwise} for tensors that get new values: `body` reads and writes element `i` of `changed`.
 *
 * @param overwrite writes over the tensors given, but for those that somebody else holds too; else over copies
 * @returns the new tensors, to be disposed beside those given
 */
export function runUpdate(
  backend: WebGPUBackend,
  name: string,
  changed: Record<string, tf.TensorInfo>,
  inputs: Record<string, tf.TensorInfo>,
  body: string,
  overwrite: boolean,
  uniforms: Record<string, number>,
): tf.TensorInfo[] {
  const own = Object.entries(changed).map(([key, given]): [string, tf.TensorInfo] => [
    key,
    ownTensor(backend, given, overwrite),
  ]);
  record(backend, name, Object.fromEntries(own), inputs, body, uniforms);
  return own.map(([, info]) => info);
}

/** What new values are written over: the tensor given, unless it is to stay or somebody else holds it too; else a copy. */
export function ownTensor(backend: WebGPUBackend, given: tf.TensorInfo, overwrite: boolean): tf.TensorInfo {
  const {dataId, shape, dtype} = given;
  if (!overwrite || backend.refCount(dataId) > 1) {
    return runElementwise(backend, 'Copy', ['y'], {x: given}, 'y[i] = x[i];')[0];
  }
  backend.incRef(dataId);
  return {dataId, shape, dtype};
}

function record(
  backend: WebGPUBackend,
  name: string,
  written: Record<string, tf.TensorInfo>,
  inputs: Record<string, tf.TensorInfo>,
  body: string,
  uniforms: Record<string, number>,
): void {
  const outputs = Object.keys(written);
  const size = tf.util.sizeFromShape(Object.values(inputs)[0].shape);
  if (size === 0) return;
  const isWide = size % 4 === 0;
  const count = isWide ? size / 4 : size;
  const names = Object.keys(inputs);
  const bindings = [
    ...outputs.map((output, i) => `@group(0) @binding(${i}) var<storage, read_write> ${output}: array<V>;`),
    ...names.map(
      (input, i) => `@group(0) @binding(${outputs.length + i}) var<storage, read> ${input}: array<V>;`,
    ),
  ];
  const fields = Object.keys(uniforms).map((field) => `${field}: f32,`);
  const code = shaderText(
    `${name} ${names} ${isWide}`,
    () => `
alias V = ${isWide ? 'vec4f' : 'f32'};
${bindings.join('\n')}
struct Uniforms { count: u32, ${fields.join(' ')} }
@group(0) @binding(${outputs.length + names.length}) var<uniform> u: Uniforms;
${FLAT_ID}
@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  let i = flatId(group, groups) * ${WORKGROUP}u + local;
  if (i >= u.count) { return; }
  ${body}
}`,
  );
  const call: ShaderCall = {
    name,
    code,
    outputs: Object.values(written),
    inputs: Object.values(inputs),
    uniforms: [{u32: count}, ...Object.values(uniforms).map((f32) => ({f32}))],
    workgroups: flatWorkgroups(backend, Math.ceil(count / WORKGROUP)),
  };
  runShader(backend, call);
}
