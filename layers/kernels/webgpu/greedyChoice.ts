import type * as tf from '@tensorflow/tfjs';
import {FLAT_ID, flatWorkgroups, runShader} from './runShader.ts';
import {shaderText} from './shaderText.ts';
import type {WebGPUBackend} from './webgpuBackend.ts';

interface GreedyChoiceArgs {
  inputs: {logits: tf.TensorInfo};
  backend: unknown;
}

/** `GreedyChoice` (layers/ops/greedyChoice.ts), a workgroup per row. */
export const greedyChoice = {
  kernelName: 'GreedyChoice',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, backend: anyBackend} = args as GreedyChoiceArgs;
    const backend = anyBackend as WebGPUBackend;
    const [rows, vocab] = inputs.logits.shape;
    const choices = backend.makeTensorInfo([rows], 'int32');
    runShader(backend, {
      name: 'GreedyChoice',
      code: shaderText('GreedyChoice', () => SHADER),
      outputs: [choices],
      inputs: [inputs.logits],
      uniforms: [{u32: rows}, {u32: vocab}],
      workgroups: flatWorkgroups(backend, rows),
    });
    return choices;
  },
} as const;

// Finiteness is read from the bits: a compiler may take float comparisons with NaN and infinity for granted.
const SHADER = `
const WORKGROUP = 256u;
@group(0) @binding(0) var<storage, read_write> choices: array<i32>;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
struct Uniforms { rows: u32, vocab: u32 }
@group(0) @binding(2) var<uniform> u: Uniforms;
var<workgroup> best: array<f32, WORKGROUP>;
var<workgroup> places: array<u32, WORKGROUP>;
var<workgroup> firstWrong: atomic<u32>;
${FLAT_ID}
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  let row = flatId(group, groups);
  if (row >= u.rows) { return; }
  if (local == 0u) { atomicStore(&firstWrong, u.vocab); }
  workgroupBarrier();
  var highest = -3.4028234e38;
  var place = u.vocab;
  for (var c = local; c < u.vocab; c += WORKGROUP) {
    let logit = logits[row * u.vocab + c];
    if ((bitcast<u32>(logit) & 0x7f800000u) == 0x7f800000u) { atomicMin(&firstWrong, c); }
    if (logit > highest || place == u.vocab) {
      highest = logit;
      place = c;
    }
  }
  best[local] = highest;
  places[local] = place;
  workgroupBarrier();
  for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
    if (local < width) {
      let other = best[local + width];
      let otherPlace = places[local + width];
      if (other > best[local] || (other == best[local] && otherPlace < places[local])) {
        best[local] = other;
        places[local] = otherPlace;
      }
    }
    workgroupBarrier();
  }
  if (local == 0u) {
    let wrong = atomicLoad(&firstWrong);
    choices[row] = select(i32(places[0]), -1 - i32(wrong), wrong < u.vocab);
  }
}`;
