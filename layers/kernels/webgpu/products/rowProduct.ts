import type * as tf from '@tensorflow/tfjs';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import type {WeightFormat} from '../weights/weightFormat.ts';
import type {Product} from './product.ts';

const WORKGROUP = 256;

/**
 * Computes `x · Wᵀ` for a few rows, as in generation. A team of threads takes each row of W, which is read once, whole
 * and in order. A workgroup has several teams, so that what a format prepares serves several rows. The number of
 * columns must be a multiple of 4.
 */
export function runRowProduct(
  backend: WebGPUBackend,
  {x, weight, rows, cols}: Product,
  y: tf.TensorInfo,
): void {
  const team = cols > 4096 ? 64 : 32;
  runShader(backend, {
    shader: dotsOfRows(x.shape[0], cols, team, weight),
    buffers: {y, x, ...weight.tensors},
    uniforms: {rows, ...weight.values},
    workgroups: Math.ceil((rows * team) / WORKGROUP),
  });
}

const dotsOfRows = shader((m: number, cols: number, team: number, weight: WeightFormat) => {
  const each = (body: (row: number) => string) => times(m, body);
  return {
    name: 'RowProduct',
    outputs: {y: 'f32'},
    inputs: {x: 'vec4f', ...weight.buffers},
    uniforms: {rows: 'u32', ...weight.uniforms},
    workgroup: WORKGROUP,
    globals: `
const TEAM = ${team}u;
const K = ${cols / 4}u; // in vectors
${weight.octet()}
var<workgroup> partial: array<array<f32, ${m}>, WORKGROUP>;`,
    body: `
  let member = local % TEAM;
  let row = flatGroup * ${WORKGROUP / team}u + local / TEAM;
  ${weight.prepare}
  ${each((i) => `var sum${i} = 0.0;`)}
  if (row < u.rows) {
    for (var k = member * 2u; k < K; k += TEAM * 2u) {
      let w = weightOctet(row, k * 4u);
      ${each((i) => `sum${i} += dot(x[${i}u * K + k], w[0]);`)}
      ${cols % 8 === 0 ? '' : 'if (k + 1u < K)'} {
        ${each((i) => `sum${i} += dot(x[${i}u * K + k + 1u], w[1]);`)}
      }
    }
  }
  ${each((i) => `partial[local][${i}] = sum${i};`)}
  workgroupBarrier();
  for (var width = TEAM / 2u; width > 0u; width /= 2u) {
    if (member < width) {
      ${each((i) => `partial[local][${i}] += partial[local + width][${i}];`)}
    }
    workgroupBarrier();
  }
  if (row < u.rows && member < ${m}u) { y[member * u.rows + row] = partial[local - member][member]; }`,
  };
});
