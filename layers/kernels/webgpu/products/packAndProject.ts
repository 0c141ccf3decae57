import type * as tf from '@tensorflow/tfjs';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {type PackedTensors, SHIFT} from './packRows.ts';

const THREADS = 256;
const SUBGROUPS = THREADS / 32;

/** Whether {@link packAndProject} takes this rank. */
export const isProjected = (rank: number): boolean => rank % 4 === 0 && rank <= 16;

/**
 * Does the work of `packRows` and computes `scale · x · factorᵀ`, from the wide side of a low-rank path to the narrow
 * one in float32, while reading `x` once. Several rows share a workgroup and what it reads of the factor.
 *
 * @param x `[rows, cols]` float32, `cols` a multiple of 4
 * @param factor `[rank, cols]` float32; see {@link isProjected}
 * @returns the packed rows and `low` `[rows, rank]` float32. The caller disposes all three
 */
export function packAndProject(
  backend: WebGPUBackend,
  x: tf.TensorInfo,
  factor: tf.TensorInfo,
  scale: number,
): PackedTensors & {low: tf.TensorInfo} {
  const [rows, cols] = x.shape;
  const [rank] = factor.shape;
  const height = rank <= 8 ? 8 : 4; // rows of a workgroup
  const halves = backend.makeTensorInfo([rows, cols / 2], 'int32');
  const scales = backend.makeTensorInfo([rows], 'float32');
  const low = backend.makeTensorInfo([rows, rank], 'float32');
  runShader(backend, {
    shader: packedAndProjected(cols, rank, height),
    buffers: {halves, scales, low, x, factor},
    uniforms: {rows, scale},
    workgroups: [Math.ceil(rows / height)],
  });
  return {halves, scales, low};
}

const packedAndProjected = shader((cols: number, rank: number, height: number) => {
  const quads = rank / 4;
  const perRow = rank + 1; // sums of a row, and its largest magnitude
  const accumulate = times(
    quads, // sum<i><q>: four ranks of row i
    (q) => `{
      ${times(4, (e) => `let f${e} = factor[${4 * q + e}u * VECTORS + c];`)}
      ${times(height, (i) => `sum${i}${q} += vec4f(dot(v${i}, f0), dot(v${i}, f1), dot(v${i}, f2), dot(v${i}, f3));`)}
    }`,
  );
  return {
    name: 'PackAndProject',
    outputs: {halves: 'vec2u', scales: 'f32', low: 'f32'},
    inputs: {x: 'vec4f', factor: 'vec4f'},
    uniforms: {rows: 'u32', scale: 'f32'},
    workgroup: THREADS,
    header: `
enable f16;
enable subgroups;`,
    globals: `
const VECTORS = ${cols / 4}u;
${SHIFT}
var<workgroup> partial: array<f32, ${SUBGROUPS * height * perRow}>;
var<workgroup> rowScales: array<f32, ${height}>;`,
    body: `
  let row0 = group.x * ${height}u;
  ${times(height, (i) => `let from${i} = min(row0 + ${i}u, u.rows - 1u) * VECTORS;`)}
  ${times(height, (i) => `var top${i} = 0.0; ${times(quads, (q) => `var sum${i}${q} = vec4f(0.0);`)}`)}
  for (var c = local; c < VECTORS; c += WORKGROUP) {
    ${times(height, (i) => `let v${i} = x[from${i} + c]; { let m = abs(v${i}); top${i} = max(top${i}, max(max(m.x, m.y), max(m.z, m.w))); }`)}
    ${accumulate}
  }
  ${times(height, (i) => {
    const at = (k: number) => `partial[(subgroup * ${height}u + ${i}u) * ${perRow}u + ${k}u]`;
    return `{
    ${times(quads, (q) => `let total${q} = subgroupAdd(sum${i}${q});`)}
    let highest = subgroupMax(top${i});
    if (lane == 0u) {
      ${times(rank, (r) => `${at(r)} = total${r >> 2}[${r & 3}];`)}
      ${at(rank)} = highest;
    }
  }`;
  })}
  workgroupBarrier();
  for (var at = local; at < ${height * perRow}u; at += WORKGROUP) {
    let row = row0 + at / ${perRow}u;
    let rank = at % ${perRow}u;
    var total = 0.0;
    var highest = 0.0;
    for (var s = 0u; s < ${SUBGROUPS}u; s++) {
      let value = partial[s * ${height * perRow}u + at];
      total += value;
      highest = max(highest, value);
    }
    if (rank < ${rank}u) {
      if (row < u.rows) { low[row * ${rank}u + rank] = u.scale * total; }
    } else {
      let shift = shiftOf(highest);
      rowScales[at / ${perRow}u] = powerOfTwo(shift);
      if (row < u.rows) { scales[row] = powerOfTwo(-shift); }
    }
  }
  workgroupBarrier();
  for (var c = local; c < VECTORS; c += WORKGROUP) {
    ${times(
      height,
      (i) =>
        `if (row0 + ${i}u < u.rows) { halves[from${i} + c] = bitcast<vec2u>(vec4<f16>(x[from${i} + c] * rowScales[${i}])); }`,
    )}
  }`,
  };
});
