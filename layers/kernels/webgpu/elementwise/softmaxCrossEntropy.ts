import type * as tf from '@tensorflow/tfjs';
import {FLAT_ID, flatWorkgroups, runShader} from '../device/runShader.ts';
import {shaderText} from '../device/shaderText.ts';
import {sumOverWorkgroup} from '../device/sumOverWorkgroup.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

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
    const width = vocab % 4 === 0 ? 4 : 1; // logits in a vector
    const isWide = width === 4;
    const V = isWide ? 'vec4f' : 'f32';
    const sumOf = (v: string) => (isWide ? `dot(${v}, vec4f(1.0))` : v);
    const code = shaderText(
      `SoftmaxCrossEntropy ${width}`,
      () => `
const WORKGROUP = 256u;
@group(0) @binding(0) var<storage, read_write> losses: array<f32>;
@group(0) @binding(1) var<storage, read_write> gradient: array<${V}>;
@group(0) @binding(2) var<storage, read> logits: array<${V}>;
@group(0) @binding(3) var<storage, read> labels: array<i32>;
struct Uniforms { rows: u32, vectors: u32, ignoreIndex: i32 }
@group(0) @binding(4) var<uniform> u: Uniforms;
var<workgroup> maxima: array<f32, 256>;
${FLAT_ID}
${sumOverWorkgroup(256)}
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  let row = flatId(group, groups);
  if (row >= u.rows) { return; }
  let at = row * u.vectors;
  var highest = -3.0e38;
  var sum = 0.0;
  for (var c = local; c < u.vectors; c += WORKGROUP) {
    let logit = logits[at + c];
    let most = ${isWide ? 'max(max(logit.x, logit.y), max(logit.z, logit.w))' : 'logit'};
    if (most > highest) {
      sum *= exp(highest - most);
      highest = most;
    }
    sum += ${sumOf('exp(logit - highest)')};
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
    let place = u32(max(label, 0));
    let logit = ${isWide ? 'logits[at + place / 4u][place % 4u]' : 'logits[at + place]'};
    losses[row] = select(0.0, log(total) + top - logit, isCounted);
  }
  let scale = select(0.0, 1.0 / total, isCounted);
  for (var c = local; c < u.vectors; c += WORKGROUP) {
    var slope = exp(logits[at + c] - top) * scale;
    if (isCounted && i32(c) == label / ${width}) { slope${isWide ? '[label % 4]' : ''} -= 1.0; }
    gradient[at + c] = slope;
  }
}`,
    );
    runShader(backend, {
      name: 'SoftmaxCrossEntropy',
      code,
      outputs: [losses, gradient],
      inputs: [logits, labels],
      uniforms: [{u32: rows}, {u32: vocab / width}, {u32: attrs.ignoreIndex}], // the same bits as the negative number
      workgroups: flatWorkgroups(backend, rows),
    });
    return [losses, gradient];
  },
} as const;
