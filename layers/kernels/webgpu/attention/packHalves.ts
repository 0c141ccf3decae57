import type * as tf from '@tensorflow/tfjs';
import {runShader} from '../device/runShader.ts';
import {numbered, shader} from '../device/shader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/** Rows to pack. */
interface Unpacked {
  /** float32 `[…, rows, cols]`, `cols` a multiple of 8. */
  x: tf.TensorInfo;
  /** Default 1. */
  factor?: number;
  /** Whether the first of each matrix's rows is subtracted from all of them. Default false. */
  isRelative?: boolean;
}

/**
 * Multiplies each tensor by a factor and packs it as float16, two in a word, all in one dispatch. Numbers beyond
 * float16's largest become the largest.
 *
 * @returns an int32 `[rows, cols / 2]` for each, with the rows of all matrices. The caller disposes them
 */
export function packHalves(backend: WebGPUBackend, given: Unpacked[]): tf.TensorInfo[] {
  const halves = given.map(({x: {shape}}) => {
    const cols = shape[shape.length - 1];
    const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1);
    return backend.makeTensorInfo([rows, cols / 2], 'int32');
  });
  const octets = halves.map(({shape: [rows, words]}) => (rows * words) / 4);
  const count = given.length;
  runShader(backend, {
    shader: packing(given.map(({x: {shape}, isRelative}) => (isRelative ? shape[shape.length - 1] / 8 : 0))),
    buffers: {...numbered('halves', count, (k) => halves[k]), ...numbered('x', count, (k) => given[k].x)},
    uniforms: {
      ...numbered('octets', count, (k) => octets[k]),
      ...numbered('factor', count, (k) => given[k].factor ?? 1),
      ...numbered('matrix', count, (k) => {
        const [rows, cols] = given[k].x.shape.slice(-2);
        return (rows * cols) / 8;
      }),
    },
    threads: octets.reduce((sum, n) => sum + n, 0),
  });
  return halves;
}

/** @param widths vectors of eight numbers in a row whose matrix's first row is subtracted; 0 for others */
const packing = shader((widths: number[]) => ({
  name: 'PackHalves',
  outputs: numbered('halves', widths.length, () => 'vec4u'),
  inputs: numbered('x', widths.length, () => 'vec4f'),
  uniforms: {
    ...numbered('octets', widths.length, () => 'u32'),
    ...numbered('factor', widths.length, () => 'f32'),
    ...numbered('matrix', widths.length, () => 'u32'),
  },
  workgroup: 256,
  header: 'enable f16;',
  globals: `
fn half4(v: vec4f) -> vec2u { return bitcast<vec2u>(vec4<f16>(clamp(v, vec4f(-65504.0), vec4f(65504.0)))); }`,
  body: `
  var i = flatGroup * WORKGROUP + local;
  ${widths
    .map((width, k) => {
      const first = width > 0 ? `let first = 2u * (i / u.matrix${k} * u.matrix${k} + i % ${width}u);` : '';
      const value = (half: number) =>
        `half4(u.factor${k} * ${width > 0 ? `(x${k}[2u * i + ${half}u] - x${k}[first + ${half}u])` : `x${k}[2u * i + ${half}u]`})`;
      return `if (i < u.octets${k}) {
    ${first}
    halves${k}[i] = vec4u(${value(0)}, ${value(1)});
    return;
  }
  i -= u.octets${k};`;
    })
    .join('\n')}`,
}));
