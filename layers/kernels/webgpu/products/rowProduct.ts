import type * as tf from '@tensorflow/tfjs';
import {FLAT_ID, flatWorkgroups, type ShaderCall} from '../device/runShader.ts';
import {shaderText} from '../device/shaderText.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {formatUniforms} from '../weights/weightFormat.ts';
import type {Product} from './product.ts';

const WORKGROUP = 256;

/**
 * `x · Wᵀ` for a few rows, as in generation: a team of threads per row of W, which is read once, whole and in order; several
 * teams in a workgroup, so that what a format prepares serves several rows. Needs the columns to be a multiple of 4.
 */
export function rowProduct(
  backend: WebGPUBackend,
  {x, weight, rows, cols}: Product,
  y: tf.TensorInfo,
): ShaderCall {
  const [m] = x.shape;
  const each = (body: (row: number) => string) => times(m, body);
  const format = formatUniforms(weight);
  const team = cols > 4096 ? 64 : 32;
  const teams = WORKGROUP / team;
  const code = shaderText(
    weight.key && `RowProduct ${m} ${cols} ${weight.key}`,
    () => `
const WORKGROUP = ${WORKGROUP}u;
const TEAM = ${team}u;
const K = ${cols / 4}u; // in vectors
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
${weight.code(2)}
struct Uniforms { rows: u32${format.fields} }
@group(0) @binding(${2 + weight.tensors.length}) var<uniform> u: Uniforms;
var<workgroup> partial: array<array<f32, ${m}>, WORKGROUP>;
${FLAT_ID}
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
  let member = local % TEAM;
  let row = flatId(group, groups) * ${teams}u + local / TEAM;
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
  if (row < u.rows && member < ${m}u) { y[member * u.rows + row] = partial[local - member][member]; }
}`,
  );
  return {
    name: 'RowProduct',
    code,
    outputs: [y],
    inputs: [x, ...weight.tensors],
    uniforms: [{u32: rows}, ...format.values],
    workgroups: flatWorkgroups(backend, Math.ceil(rows / teams)),
  };
}
