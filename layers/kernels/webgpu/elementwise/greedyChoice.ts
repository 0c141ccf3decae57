import type * as tf from '@tensorflow/tfjs';
import {FLAT_ID, flatWorkgroups, runShader} from '../device/runShader.ts';
import {shaderText} from '../device/shaderText.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

interface GreedyChoiceArgs {
  inputs: {logits: tf.TensorInfo};
  backend: unknown;
}

/** The place of a thread that has seen none: every other is better. */
const NOWHERE = '0x7fffffff';

/** Logits that a workgroup looks at. */
const PART = 2048;

/** `GreedyChoice` (layers/ops/greedyChoice.ts): a workgroup per part of a row, then one per row for what the parts gave. */
export const greedyChoice = {
  kernelName: 'GreedyChoice',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, backend: anyBackend} = args as GreedyChoiceArgs;
    const backend = anyBackend as WebGPUBackend;
    const [rows, vocab] = inputs.logits.shape;
    const parts = Math.ceil(vocab / PART);
    const best = backend.makeTensorInfo([rows, parts], 'float32');
    const places = backend.makeTensorInfo([rows, parts], 'int32');
    runShader(backend, {
      name: 'GreedyParts',
      code: shaderText('GreedyParts', () => PARTS),
      outputs: [best, places],
      inputs: [inputs.logits],
      uniforms: [{u32: rows}, {u32: vocab}, {u32: parts}],
      workgroups: flatWorkgroups(backend, rows * parts),
    });
    const choices = backend.makeTensorInfo([rows], 'int32');
    runShader(backend, {
      name: 'GreedyChoice',
      code: shaderText('GreedyChoice', () => CHOICE),
      outputs: [choices],
      inputs: [best, places],
      uniforms: [{u32: rows}, {u32: parts}],
      workgroups: flatWorkgroups(backend, rows),
    });
    for (const {dataId} of [best, places]) backend.disposeData(dataId);
    return choices;
  },
} as const;

/** The first of the largest, by all threads; what is not finite beats everything, the first of it wins. */
const REDUCE = `
var<workgroup> logitsOf: array<f32, WORKGROUP>;
var<workgroup> placesOf: array<i32, WORKGROUP>;
fn isBetter(logit: f32, place: i32, than: f32, thanPlace: i32) -> bool {
  if (place < 0 || thanPlace < 0) { return place < 0 && (thanPlace >= 0 || place > thanPlace); } // -1 - column
  return logit > than || (logit == than && place < thanPlace);
}
fn reduce(logit: f32, place: i32, local: u32) {
  logitsOf[local] = logit;
  placesOf[local] = place;
  workgroupBarrier();
  for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
    if (local < width && isBetter(logitsOf[local + width], placesOf[local + width], logitsOf[local], placesOf[local])) {
      logitsOf[local] = logitsOf[local + width];
      placesOf[local] = placesOf[local + width];
    }
    workgroupBarrier();
  }
}
${FLAT_ID}`;

// Finiteness is read from the bits: a compiler may take float comparisons with NaN and infinity for granted.
const PARTS = `
const WORKGROUP = 256u;
@group(0) @binding(0) var<storage, read_write> best: array<f32>;
@group(0) @binding(1) var<storage, read_write> places: array<i32>;
@group(0) @binding(2) var<storage, read> logits: array<f32>;
struct Uniforms { rows: u32, vocab: u32, parts: u32 }
@group(0) @binding(3) var<uniform> u: Uniforms;
${REDUCE}
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  let id = flatId(group, groups);
  let row = id / u.parts;
  if (row >= u.rows) { return; }
  let first = id % u.parts * ${PART}u;
  let end = min(first + ${PART}u, u.vocab);
  var highest = -3.4028234e38;
  var place = ${NOWHERE};
  for (var c = first + local; c < end; c += WORKGROUP) {
    let logit = logits[row * u.vocab + c];
    let isWrong = (bitcast<u32>(logit) & 0x7f800000u) == 0x7f800000u;
    let at = select(i32(c), -1 - i32(c), isWrong);
    if (isBetter(logit, at, highest, place)) {
      highest = select(logit, 0.0, isWrong);
      place = at;
    }
  }
  reduce(highest, place, local);
  if (local == 0u) {
    best[id] = logitsOf[0];
    places[id] = placesOf[0];
  }
}`;

const CHOICE = `
const WORKGROUP = 64u;
@group(0) @binding(0) var<storage, read_write> choices: array<i32>;
@group(0) @binding(1) var<storage, read> best: array<f32>;
@group(0) @binding(2) var<storage, read> places: array<i32>;
struct Uniforms { rows: u32, parts: u32 }
@group(0) @binding(3) var<uniform> u: Uniforms;
${REDUCE}
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  let row = flatId(group, groups);
  if (row >= u.rows) { return; }
  var highest = -3.4028234e38;
  var place = ${NOWHERE};
  for (var p = local; p < u.parts; p += WORKGROUP) {
    let at = row * u.parts + p;
    if (isBetter(best[at], places[at], highest, place)) {
      highest = best[at];
      place = places[at];
    }
  }
  reduce(highest, place, local);
  if (local == 0u) { choices[row] = placesOf[0]; }
}`;
