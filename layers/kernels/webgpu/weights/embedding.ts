import type * as tf from '@tensorflow/tfjs';
import type {HalfDtype} from '../../../../quant/float16.ts';
import {FLAT_ID, flatWorkgroups, runShader} from '../device/runShader.ts';
import {shaderText} from '../device/shaderText.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {WIDEN} from './unpack16.ts';

interface EmbeddingArgs {
  inputs: {ids: tf.TensorInfo; table: tf.TensorInfo};
  attrs: {dtype: HalfDtype; cols: number};
  backend: unknown;
}

const WORKGROUP = 256;

/**
 * `Embedding` (layers/ops/embedding.ts): rows of a packed table, widened. The stock gather reads words as float32 and
 * loses bits.
 */
export const embedding = {
  kernelName: 'Embedding',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as EmbeddingArgs;
    const backend = anyBackend as WebGPUBackend;
    const {ids, table} = inputs;
    const {dtype, cols} = attrs;
    const [count] = ids.shape;
    const wordsPerRow = Math.ceil(cols / 2);
    const y = backend.makeTensorInfo([count, cols], 'float32');
    if (count === 0) return y;
    const code = shaderText(
      `Embedding ${dtype}`,
      () => `
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<storage, read> ids: array<i32>;
@group(0) @binding(2) var<storage, read> table: array<u32>;
struct Uniforms { words: u32, wordsPerRow: u32, cols: u32, rows: u32 }
@group(0) @binding(3) var<uniform> u: Uniforms;
${FLAT_ID}
${WIDEN[dtype]}
@compute @workgroup_size(${WORKGROUP})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  let i = flatId(group, groups) * ${WORKGROUP}u + local;
  if (i >= u.words) { return; }
  let row = i / u.wordsPerRow;
  let word = i % u.wordsPerRow;
  let values = widen(table[min(u32(ids[row]), u.rows - 1u) * u.wordsPerRow + word]);
  y[row * u.cols + 2u * word] = values.x;
  if (2u * word + 1u < u.cols) { y[row * u.cols + 2u * word + 1u] = values.y; }
}`,
    );
    const words = count * wordsPerRow;
    runShader(backend, {
      name: 'Embedding',
      code,
      outputs: [y],
      inputs: [ids, table],
      uniforms: [{u32: words}, {u32: wordsPerRow}, {u32: cols}, {u32: table.shape[0]}],
      workgroups: flatWorkgroups(backend, Math.ceil(words / WORKGROUP)),
    });
    return y;
  },
} as const;
