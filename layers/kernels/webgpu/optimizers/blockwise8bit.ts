import * as tf from '@tensorflow/tfjs';
import {dynamicMap} from '../../../../quant/blockwise/codebooks.ts';
import {codesOfSteps} from '../../../../quant/blockwise/dynamic8Bit.ts';
import {blockwise8bitShapes} from '../../../ops/blockwise8bit.ts';
import {FLAT_ID, flatWorkgroups, runShader, type ShaderCall} from '../device/runShader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

const WORKGROUP = 256;
/** Words of four codes in a block. */
const WORDS_PER_BLOCK = 64;

/** `FromBlockwise8bit` (layers/ops/blockwise8bit.ts), a thread per word. */
export const fromBlockwise8bit = {
  kernelName: 'FromBlockwise8bit',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as {
      inputs: Record<'codes' | 'absmax', tf.TensorInfo>;
      attrs: {isSigned: boolean; shape: number[]};
      backend: WebGPUBackend;
    };
    const size = tf.util.sizeFromShape(attrs.shape);
    const values = backend.makeTensorInfo(attrs.shape, 'float32');
    if (size === 0) return values;
    const code = `
@group(0) @binding(0) var<storage, read_write> values: array<f32>;
@group(0) @binding(1) var<storage, read> codes: array<u32>;
@group(0) @binding(2) var<storage, read> absmax: array<f32>;
@group(0) @binding(3) var<storage, read> map: array<f32>;
struct Uniforms { size: u32 }
@group(0) @binding(4) var<uniform> u: Uniforms;
${FLAT_ID}
@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  let word = flatId(group, groups) * ${WORKGROUP}u + local;
  if (4u * word >= u.size) { return; }
  let scale = absmax[word / ${WORDS_PER_BLOCK}u];
  let packed = codes[word];
  for (var i = 0u; i < 4u && 4u * word + i < u.size; i++) {
    values[4u * word + i] = map[(packed >> (8u * i)) & 0xffu] * scale;
  }
}`;
    const words = Math.ceil(size / 4);
    runWithTable(backend, new Float32Array(dynamicMap(attrs.isSigned)), {
      name: 'FromBlockwise8bit',
      code,
      outputs: [values],
      inputs: [inputs.codes, inputs.absmax],
      uniforms: [{u32: size}],
      workgroups: flatWorkgroups(backend, Math.ceil(words / WORKGROUP)),
    });
    return values;
  },
} as const;

/**
 * `ToBlockwise8bit` (layers/ops/blockwise8bit.ts), a workgroup per block, a thread per word. A value's step among the 65,536
 * finds its code by bisecting the first step of every code.
 */
export const toBlockwise8bit = {
  kernelName: 'ToBlockwise8bit',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as {
      inputs: {values: tf.TensorInfo};
      attrs: {isSigned: boolean};
      backend: WebGPUBackend;
    };
    const size = tf.util.sizeFromShape(inputs.values.shape);
    const shapes = blockwise8bitShapes(size);
    const codes = backend.makeTensorInfo(shapes.codes, 'int32');
    const absmax = backend.makeTensorInfo(shapes.absmax, 'float32');
    if (size === 0) return [codes, absmax];
    const code = `
@group(0) @binding(0) var<storage, read_write> codes: array<u32>;
@group(0) @binding(1) var<storage, read_write> absmax: array<f32>;
@group(0) @binding(2) var<storage, read> values: array<f32>;
@group(0) @binding(3) var<storage, read> firstSteps: array<u32>;
struct Uniforms { size: u32, blocks: u32 }
@group(0) @binding(4) var<uniform> u: Uniforms;
var<workgroup> largest: array<f32, ${WORDS_PER_BLOCK}>;
${FLAT_ID}
fn codeOf(normal: f32) -> u32 {
  let step = u32((clamp(normal, -1.0, 1.0) + 1.0) * 0.5 * 65535.0 + 0.5);
  var code = 0u;
  for (var half = 128u; half > 0u; half /= 2u) {
    if (firstSteps[code + half] <= step) { code += half; }
  }
  return code;
}
@compute @workgroup_size(${WORDS_PER_BLOCK})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  let block = flatId(group, groups);
  if (block >= u.blocks) { return; }
  let word = block * ${WORDS_PER_BLOCK}u + local;
  let count = clamp(i32(u.size) - i32(4u * word), 0, 4);
  var own = vec4f();
  for (var i = 0; i < count; i++) { own[i] = values[4u * word + u32(i)]; }
  let magnitudes = abs(own);
  largest[local] = max(max(magnitudes.x, magnitudes.y), max(magnitudes.z, magnitudes.w));
  workgroupBarrier();
  for (var width = ${WORDS_PER_BLOCK / 2}u; width > 0u; width /= 2u) {
    if (local < width) { largest[local] = max(largest[local], largest[local + width]); }
    workgroupBarrier();
  }
  let scale = largest[0];
  if (local == 0u) { absmax[block] = scale; }
  if (count == 0) { return; }
  var packed = 0u;
  if (scale > 0.0) {
    for (var i = 0; i < count; i++) { packed |= codeOf(own[i] * (1.0 / scale)) << (8u * u32(i)); }
  }
  codes[word] = packed;
}`;
    const [blocks] = shapes.absmax;
    runWithTable(backend, firstSteps(attrs.isSigned), {
      name: 'ToBlockwise8bit',
      code,
      outputs: [codes, absmax],
      inputs: [inputs.values],
      uniforms: [{u32: size}, {u32: blocks}],
      workgroups: flatWorkgroups(backend, blocks),
    });
    return [codes, absmax];
  },
} as const;

/** Runs a shader whose last input is a table. */
function runWithTable(backend: WebGPUBackend, table: Float32Array | Int32Array, call: ShaderCall): void {
  const dtype = table instanceof Int32Array ? 'int32' : 'float32';
  const info = backend.makeTensorInfo([table.length], dtype, table);
  runShader(backend, {...call, inputs: [...call.inputs, info]});
  backend.disposeData(info.dataId);
}

/** int32 [256]: the first step whose code is at least this one. */
function firstSteps(isSigned: boolean): Int32Array {
  const codes = codesOfSteps(dynamicMap(isSigned));
  const first = new Int32Array(256);
  for (let step = 0, code = 0; code < 256; code++) {
    while (step < codes.length && codes[step] < code) step++;
    first[code] = step;
  }
  return first;
}
