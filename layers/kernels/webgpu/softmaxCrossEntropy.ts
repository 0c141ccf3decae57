import type * as tf from '@tensorflow/tfjs';
import {FLAT_ID, flatWorkgroups, runShader} from './runShader.ts';
import {shaderText} from './shaderText.ts';
import {sumOverWorkgroup} from './sumOverWorkgroup.ts';
import type {WebGPUBackend} from './webgpuBackend.ts';

interface SoftmaxCrossEntropyArgs {
  inputs: {logits: tf.TensorInfo; labels: tf.TensorInfo};
  attrs: {ignoreIndex: number};
  backend: unknown;
}

/** `SoftmaxCrossEntropy` (layers/ops/softmaxCrossEntropy.ts), a workgroup per row. */
export const softmaxCrossEntropy = {
  kernelName: 'SoftmaxCrossEntropy',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as SoftmaxCrossEntropyArgs;
    const backend = anyBackend as WebGPUBackend;
    const {logits, labels} = inputs;
    const [rows, vocab] = logits.shape;
    const losses = backend.makeTensorInfo([rows], 'float32');
    const gradient = backend.makeTensorInfo([rows, vocab], 'float32');
    if (rows === 0) return [losses, gradient];
    // Each thread keeps a running maximum and a sum relative to it: one reading for both.
    const code = shaderText(
      'SoftmaxCrossEntropy',
      () => `
const WORKGROUP = 256u;
@group(0) @binding(0) var<storage, read_write> losses: array<f32>;
@group(0) @binding(1) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
@group(0) @binding(3) var<storage, read> labels: array<i32>;
struct Uniforms { rows: u32, vocab: u32, ignoreIndex: i32 }
@group(0) @binding(4) var<uniform> u: Uniforms;
var<workgroup> maxima: array<f32, 256>;
${FLAT_ID}
${sumOverWorkgroup(256)}
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  let row = flatId(group, groups);
  if (row >= u.rows) { return; }
  let at = row * u.vocab;
  var highest = -3.0e38;
  var sum = 0.0;
  for (var c = local; c < u.vocab; c += WORKGROUP) {
    let logit = logits[at + c];
    if (logit > highest) {
      sum *= exp(highest - logit);
      highest = logit;
    }
    sum += exp(logit - highest);
  }
  maxima[local] = highest;
  workgroupBarrier();
  for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
    if (local < width) { maxima[local] = max(maxima[local], maxima[local + width]); }
    workgroupBarrier();
  }
  let top = maxima[0];
  let total = sumOverWorkgroup(sum * exp(highest - top), local);
  let label = labels[row];
  let isCounted = label != u.ignoreIndex;
  if (local == 0u) {
    losses[row] = select(0.0, log(total) + top - logits[at + u32(max(label, 0))], isCounted);
  }
  let scale = select(0.0, 1.0 / total, isCounted);
  for (var c = local; c < u.vocab; c += WORKGROUP) {
    let isLabel = isCounted && i32(c) == label;
    gradient[at + c] = exp(logits[at + c] - top) * scale - select(0.0, 1.0, isLabel);
  }
}`,
    );
    runShader(backend, {
      name: 'SoftmaxCrossEntropy',
      code,
      outputs: [losses, gradient],
      inputs: [logits, labels],
      uniforms: [{u32: rows}, {u32: vocab}, {u32: attrs.ignoreIndex}], // the same bits as the negative number
      workgroups: flatWorkgroups(backend, rows),
    });
    return [losses, gradient];
  },
} as const;
