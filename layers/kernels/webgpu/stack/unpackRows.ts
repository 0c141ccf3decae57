import type * as tf from '@tensorflow/tfjs';
import {HALVES, HALVES_HEADER} from '../device/halves.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {refuseOctets} from '../device/octets.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import type {PackedTensors} from '../products/packRows.ts';

/** Widens packed rows to float32 `[rows, cols]`; `cols` is a multiple of 4. */
export function unpackRows(backend: WebGPUBackend, {halves, scales}: PackedTensors): tf.TensorInfo {
  refuseOctets('UnpackRows', halves);
  const [rows, words] = halves.shape;
  const y = makeScratch(backend, [rows, 2 * words]);
  const count = (rows * words) / 2;
  runShader(backend, {
    shader: widening(),
    buffers: {y, x: halves, scales},
    uniforms: {count, vectors: words / 2},
    threads: count,
  });
  return y;
}

const widening = shader(() => ({
  name: 'UnpackRows',
  outputs: {y: 'vec4f'},
  inputs: {x: 'vec2u', scales: 'f32'},
  uniforms: {count: 'u32', vectors: 'u32'},
  workgroup: 256,
  header: HALVES_HEADER,
  globals: HALVES,
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i < u.count) { y[i] = scales[i / u.vectors] * widened(x[i]); }`,
}));
