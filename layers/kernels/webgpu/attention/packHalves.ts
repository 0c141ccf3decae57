import type * as tf from '@tensorflow/tfjs';
import {runShader} from '../device/runShader.ts';
import {numbered, shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/**
 * Multiplies each tensor by a factor and packs it as float16, two in a word, all in one dispatch. Numbers beyond
 * float16's largest become the largest.
 *
 * @param given float32 tensors `[…, cols]`, `cols` a multiple of 8, each with its factor
 * @returns an int32 `[rows, cols / 2]` for each. The caller disposes them
 */
export function packHalves(
  backend: WebGPUBackend,
  given: [x: tf.TensorInfo, factor: number][],
): tf.TensorInfo[] {
  const halves = given.map(([{shape}]) => {
    const cols = shape[shape.length - 1];
    const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1);
    return backend.makeTensorInfo([rows, cols / 2], 'int32');
  });
  const octets = halves.map(({shape: [rows, words]}) => (rows * words) / 4);
  const count = given.length;
  runShader(backend, {
    shader: packing(count),
    buffers: {...numbered('halves', count, (k) => halves[k]), ...numbered('x', count, (k) => given[k][0])},
    uniforms: {
      ...numbered('octets', count, (k) => octets[k]),
      ...numbered('factor', count, (k) => given[k][1]),
    },
    threads: octets.reduce((sum, n) => sum + n, 0),
  });
  return halves;
}

const packing = shader((count: number) => ({
  name: 'PackHalves',
  outputs: numbered('halves', count, () => 'vec4u'),
  inputs: numbered('x', count, () => 'vec4f'),
  uniforms: {
    ...numbered('octets', count, () => 'u32'),
    ...numbered('factor', count, () => 'f32'),
  },
  workgroup: 256,
  header: 'enable f16;',
  globals: `
fn half4(v: vec4f) -> vec2u { return bitcast<vec2u>(vec4<f16>(clamp(v, vec4f(-65504.0), vec4f(65504.0)))); }`,
  body: `
  var i = flatGroup * WORKGROUP + local;
  ${times(
    count,
    (k) => `if (i < u.octets${k}) {
    halves${k}[i] = vec4u(half4(u.factor${k} * x${k}[2u * i]), half4(u.factor${k} * x${k}[2u * i + 1u]));
    return;
  }
  i -= u.octets${k};`,
  )}`,
}));
