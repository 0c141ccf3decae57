import type * as tf from '@tensorflow/tfjs';
import type {Product} from './multiply.ts';
import type {PackedRows} from './packRows.ts';
import type {ShaderCall} from './runShader.ts';
import {CONVERTED_HALVES, formatUniforms} from './weightFormat.ts';

/** Rows and columns of a workgroup's tile. */
export const MATRIX_TILE = 128;
const TILE = MATRIX_TILE;
/** How much of k is in workgroup memory at once. */
const DEPTH = 64;
/** A subgroup's share of the tile; eight subgroups. */
const [SHARE_ROWS, SHARE_COLS] = [64, 32];
/** Elements that keep the rows of a tile off the same memory banks. */
const PADDING = 8;
const THREADS = 256;

/**
 * The product by subgroup matrices: float16 operands, float32 sums. A workgroup of eight subgroups makes 128×128; the next
 * tiles are on their way in registers while the present ones are multiplied. The matrices of a subgroup are named one by
 * one, not indexed: an array of them would lie in slow memory.
 *
 * Needs k and n to be multiples of 8.
 *
 * @param y `[m, n]`, or `[splits, m, n]` for the sums over each of `splits` parts of k
 */
export function matrixProduct(
  {weight, rows, cols, transposeWeight}: Product,
  y: tf.TensorInfo,
  packed: PackedRows,
  splits = 1,
): ShaderCall {
  const [m, n] = y.shape.slice(-2);
  const k = transposeWeight ? cols : rows;
  const part = Math.ceil(k / splits / DEPTH) * DEPTH; // of k
  const isWhole = splits === 1; // a constant end compiles to a faster loop
  const strideA = DEPTH + PADDING;
  const strideB = transposeWeight ? DEPTH + PADDING : TILE + PADDING;
  const octetsA = (TILE * DEPTH) / 8 / THREADS; // a thread's loads per step
  const octetsB = (TILE * DEPTH) / 8 / THREADS;
  const times = (count: number, body: (i: number) => string) =>
    Array.from({length: count}, (_, i) => body(i)).join('\n');

  const loadA = times(
    octetsA,
    (i) => `{
      let r = row0 + (local + ${i * THREADS}u) / ${DEPTH / 8}u;
      let c = k0 + ((local + ${i * THREADS}u) % ${DEPTH / 8}u) * 8u;
      if (r < u.m && c < K) { nextA${i} = x[(r * K + c) / 8u]; } else { nextA${i} = vec4u(0); }
    }`,
  );
  const perRowB = transposeWeight ? DEPTH / 8 : TILE / 8;
  const loadB = times(octetsB, (i) => {
    const [at, row, col] = [
      `(local + ${i * THREADS}u)`,
      transposeWeight ? 'col0' : 'k0',
      transposeWeight ? 'k0' : 'col0',
    ];
    return `{
      let r = ${row} + ${at} / ${perRowB}u;
      let c = ${col} + (${at} % ${perRowB}u) * 8u;
      if (r < ${rows}u && c < ${cols}u) { nextB${i} = weightHalves(r, c); } else { nextB${i} = vec4u(0); }
    }`;
  });
  const store = (tile: string, next: string, count: number, perRow: number, stride: number) =>
    times(
      count,
      (i) => `{
      let at = ((local + ${i * THREADS}u) / ${perRow}u) * ${stride}u + ((local + ${i * THREADS}u) % ${perRow}u) * 8u;
      ${['x', 'y', 'z', 'w']
        .map(
          (word, j) => `let pair${j} = bitcast<vec2<f16>>(${next}${i}.${word});
      ${tile}[at + ${2 * j}u] = pair${j}.x; ${tile}[at + ${2 * j + 1}u] = pair${j}.y;`,
        )
        .join('\n')}
    }`,
    );
  const [countI, countJ] = [SHARE_ROWS / 16, SHARE_COLS / 16];
  const steps = times(DEPTH / 16, (step) => {
    const left = times(
      countI,
      (i) =>
        `let a${i} = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&tileA, (shareRow + ${16 * i}u) * ${strideA}u + ${16 * step}u, ${strideA}u);`,
    );
    const right = (j: number) =>
      transposeWeight
        ? `(shareCol + ${16 * j}u) * ${strideB}u + ${16 * step}u, ${strideB}u`
        : `${16 * step * strideB}u + shareCol + ${16 * j}u, ${strideB}u`;
    const products = times(
      countJ,
      (j) => `{
        let b = subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, ${transposeWeight ? 'col_major' : 'row_major'}>(&tileB, ${right(j)});
        ${times(countI, (i) => `c${i}${j} = subgroupMatrixMultiplyAccumulate(a${i}, b, c${i}${j});`)}
      }`,
    );
    return `{ ${left} ${products} }`;
  });
  // Through workgroup memory: rows are scaled, and those past the end are left out.
  const finish = times(countI, (i) =>
    times(
      countJ,
      (j) => `
    subgroupMatrixStore<row_major>(&stage, subgroup * 256u, c${i}${j}, 16u);
    workgroupBarrier();
    {
      let row = row0 + shareRow + ${16 * i}u + lane / 2u;
      let col = col0 + shareCol + ${16 * j}u + (lane % 2u) * 8u;
      if (row < u.m && col < N) {
        let scale = scales[row];
        let start = subgroup * 256u + lane * 8u;
        let to = (${isWhole ? 'row' : '(group.z * u.m + row)'} * N + col) / 4u;
        y[to] = scale * vec4f(stage[start], stage[start + 1u], stage[start + 2u], stage[start + 3u]);
        y[to + 1u] = scale * vec4f(stage[start + 4u], stage[start + 5u], stage[start + 6u], stage[start + 7u]);
      }
    }
    workgroupBarrier();`,
    ),
  );
  const format = formatUniforms(weight);
  const code = `
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);
diagnostic(off, subgroup_uniformity);
const K = ${k}u;
const N = ${n}u;
const PART = ${part}u;
@group(0) @binding(0) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4u>;
@group(0) @binding(2) var<storage, read> scales: array<f32>;
${weight.code(3)}
${weight.halves ?? CONVERTED_HALVES}
struct Uniforms { m: u32${format.fields} }
@group(0) @binding(${3 + weight.tensors.length}) var<uniform> u: Uniforms;
var<workgroup> tileA: array<f16, ${TILE * strideA}>;
var<workgroup> tileB: array<f16, ${transposeWeight ? TILE * strideB : DEPTH * strideB}>;
var<workgroup> stage: array<f32, ${(THREADS / 32) * 256}>;
const WORKGROUP = ${THREADS}u;
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32,
        @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
  ${weight.prepare}
  let row0 = group.y * ${TILE}u;
  let col0 = group.x * ${TILE}u;
  let shareRow = (subgroup / ${TILE / SHARE_COLS}u) * ${SHARE_ROWS}u;
  let shareCol = (subgroup % ${TILE / SHARE_COLS}u) * ${SHARE_COLS}u;
  ${times(countI, (i) => times(countJ, (j) => `var c${i}${j}: subgroup_matrix_result<f32, 16, 16>;`))}
  ${times(octetsA, (i) => `var nextA${i}: vec4u;`)}
  ${times(octetsB, (i) => `var nextB${i}: vec4u;`)}
  ${isWhole ? 'var k0 = 0u; const end = K;' : 'var k0 = group.z * PART; let end = min(k0 + PART, K);'}
  ${loadA}
  ${loadB}
  while (k0 < end) {
    ${store('tileA', 'nextA', octetsA, DEPTH / 8, strideA)}
    ${store('tileB', 'nextB', octetsB, perRowB, strideB)}
    workgroupBarrier();
    k0 += ${DEPTH}u;
    if (k0 < end) {
      ${loadA}
      ${loadB}
    }
    ${steps}
    workgroupBarrier();
  }
  ${finish}
}`;
  return {
    name: 'MatrixProduct',
    code,
    outputs: [y],
    inputs: [packed.halves, packed.scales, ...weight.tensors],
    uniforms: [{u32: m}, ...format.values],
    workgroups: [Math.ceil(n / TILE), Math.ceil(m / TILE), splits],
  };
}
