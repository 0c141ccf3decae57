import type * as tf from '@tensorflow/tfjs';
import {runShader} from '../device/runShader.ts';
import {type ElementType, numbered, shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import {capabilitiesOf, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {MATRIX_HEADER} from './matrixTiles.ts';
import {type PackedRows, SHIFT} from './packRows.ts';

/** A factor of a low-rank path, from its wide side to the narrow one. */
export interface Factor {
  /** `[rank, cols]` float32, or `[cols, rank]` if it is transposed. */
  tensor: tf.TensorInfo;
  isTransposed: boolean;
  /** Multiplies the result. */
  scale: number;
}

/** Rows of a workgroup, and of a matrix. */
const SIDE = 16;
const SUBGROUPS = 4;
/** Vectors of eight numbers that a workgroup reads of each row at a time; each subgroup multiplies its part of them. */
const WIDTH = 64;
const STEPS = (WIDTH * 8) / (SIDE * SUBGROUPS);
/** Vectors between the rows of a tile: one more, for other memory banks. */
const STRIDE = WIDTH + 1;
/** The sums of more tiles of ranks would not fit the registers. */
const MOST_TILES = 8;

const rankOf = ({tensor: {shape}, isTransposed}: Factor) => shape[isTransposed ? 1 : 0];
const quadsOf = (ranks: number[]) => ranks.reduce((sum, rank) => sum + Math.ceil(rank / 4), 0);
const tilesOf = (ranks: number[]) => Math.ceil((4 * quadsOf(ranks)) / SIDE);

/** Whether {@link matrixProject} takes rows of these sides and factors. */
export function fitsMatrixProject(backend: WebGPUBackend, x: PackedRows, factors: Factor[]): boolean {
  const {hasMatrices, computeDtype} = capabilitiesOf(backend);
  const cols = 2 * x.halves.shape[1];
  return (
    hasMatrices &&
    computeDtype === 'float16' &&
    cols % SIDE === 0 &&
    factors.length <= 3 &&
    tilesOf(factors.map(rankOf)) <= MOST_TILES
  );
}

/**
 * Computes `scale · x · factorᵀ` for up to three factors by subgroup matrices, and reads `x` once. Factors are rounded to
 * float16 after scaling each rank by a power of two.
 *
 * @returns float32 `[rows, rank]` for each factor. The caller disposes them
 */
export function matrixProject(backend: WebGPUBackend, x: PackedRows, factors: Factor[]): tf.TensorInfo[] {
  const [rows, words] = x.halves.shape;
  const ranks = factors.map(rankOf);
  const count = factors.length;
  const cols = 2 * words;
  const factor = backend.makeTensorInfo([tilesOf(ranks) * SIDE, words], 'int32');
  const factorScales = backend.makeTensorInfo([tilesOf(ranks) * SIDE], 'float32');
  runShader(backend, {
    shader: packing(
      cols,
      ranks,
      factors.map(({isTransposed}) => isTransposed),
    ),
    buffers: {factor, factorScales, ...numbered('given', count, (i) => factors[i].tensor)},
    uniforms: numbered('scale', count, (i) => factors[i].scale),
    workgroups: tilesOf(ranks) * SIDE,
  });
  const lows = ranks.map((rank) => backend.makeTensorInfo([rows, rank], 'float32'));
  runShader(backend, {
    shader: projection(cols, ranks, x.scales !== undefined),
    buffers: {...numbered('low', count, (i) => lows[i]), x: x.halves, scales: x.scales, factor, factorScales},
    uniforms: {rows},
    workgroups: Math.ceil(rows / SIDE),
  });
  for (const {dataId} of [factor, factorScales]) backend.disposeData(dataId);
  return lows;
}

/**
 * Packs factors into tiles of 16 ranks by 16 columns, which follow each other by rank and then by column. The ranks of a
 * factor begin at a multiple of four; a workgroup packs one rank.
 */
const packing = shader((cols: number, ranks: number[], areTransposed: boolean[]) => {
  const tiles = tilesOf(ranks);
  const startOf = (i: number) => 4 * quadsOf(ranks.slice(0, i));
  return {
    name: 'PackFactors',
    outputs: {factor: 'vec4u', factorScales: 'f32'},
    inputs: numbered('given', ranks.length, () => 'f32'),
    uniforms: numbered('scale', ranks.length, () => 'f32'),
    workgroup: 256,
    header: 'enable f16;',
    globals: `
var<workgroup> maxima: array<f32, WORKGROUP>;
${SHIFT}
fn valueAt(row: u32, col: u32) -> f32 {
  ${times(ranks.length, (i) => {
    const rank = `(row - ${startOf(i)}u)`;
    const at = areTransposed[i] ? `col * ${ranks[i]}u + ${rank}` : `${rank} * ${cols}u + col`;
    return `if (row >= ${startOf(i)}u && row < ${startOf(i) + ranks[i]}u) { return given${i}[${at}]; }`;
  })}
  return 0.0;
}
fn half4(row: u32, col: u32, scale: f32) -> vec2u {
  let v = vec4f(valueAt(row, col), valueAt(row, col + 1u), valueAt(row, col + 2u), valueAt(row, col + 3u));
  return bitcast<vec2u>(vec4<f16>(scale * v));
}`,
    body: `
  let row = group.x;
  var largest = 0.0;
  for (var col = local; col < ${cols}u; col += WORKGROUP) { largest = max(largest, abs(valueAt(row, col))); }
  maxima[local] = largest;
  workgroupBarrier();
  for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
    if (local < width) { maxima[local] = max(maxima[local], maxima[local + width]); }
    workgroupBarrier();
  }
  let shift = shiftOf(maxima[0]);
  let scale = powerOfTwo(shift);
  for (var octet = local; octet < ${cols / 8}u; octet += WORKGROUP) {
    let at = (octet / 2u * ${tiles}u + row / 16u) * 32u + row % 16u * 2u + octet % 2u;
    factor[at] = vec4u(half4(row, 8u * octet, scale), half4(row, 8u * octet + 4u, scale));
  }
  if (local == 0u) {
    var unit = 0.0;
    ${times(ranks.length, (i) => `if (row >= ${startOf(i)}u) { unit = u.scale${i}; }`)}
    factorScales[row] = unit * powerOfTwo(-shift);
  }`,
  };
});

const projection = shader((cols: number, ranks: number[], hasScales: boolean) => {
  const tiles = tilesOf(ranks);
  const vectors = cols / 8;
  const threads = 32 * SUBGROUPS;
  const loads = (SIDE * WIDTH) / threads; // vectors of a thread
  const isWhole = vectors % WIDTH === 0;
  const load = times(loads, (i) => {
    const value = `x[min(row0 + local / ${WIDTH}u + ${(i * threads) / WIDTH}u, u.rows - 1u) * ${vectors}u + v]`;
    return isWhole
      ? `next${i} = ${value};`
      : `if (v < ${vectors}u) { next${i} = ${value}; } else { next${i} = vec4u(0); }`;
  });
  return {
    name: 'MatrixProject',
    outputs: numbered('low', ranks.length, (): ElementType => 'f32'),
    inputs: {x: 'vec4u', scales: hasScales ? 'f32' : undefined, factor: 'vec4u', factorScales: 'f32'},
    uniforms: {rows: 'u32'},
    workgroup: threads,
    header: MATRIX_HEADER,
    globals: `
// Rows of x, then each subgroup's sums.
var<workgroup> tile: array<vec4u, ${Math.max(SIDE * STRIDE, 64 * SUBGROUPS * tiles)}>;`,
    body: `
  let row0 = flatGroup * ${SIDE}u;
  ${times(tiles, (t) => `var sum${t} = Sum();`)}
  ${times(loads, (i) => `var next${i}: vec4u;`)}
  var v = local % ${WIDTH}u;
  ${load}
  for (var v0 = 0u; v0 < ${vectors}u; v0 += ${WIDTH}u) {
    ${times(loads, (i) => `tile[(local / ${WIDTH}u + ${(i * threads) / WIDTH}u) * ${STRIDE}u + local % ${WIDTH}u] = next${i};`)}
    workgroupBarrier();
    v += ${WIDTH}u;
    if (v0 + ${WIDTH}u < ${vectors}u) {
      ${load}
    }
    let first = v0 / 2u + subgroup * ${STEPS}u; // matrix along the columns
    ${times(
      STEPS,
      (step) => `${isWhole ? '' : `if (first + ${step}u < ${cols / SIDE}u) `}{
      let a = subgroupMatrixLoad<Left, row_major>(&tile, subgroup * ${2 * STEPS}u + ${2 * step}u, ${STRIDE}u);
      ${times(
        tiles,
        (t) => `{
        let b = subgroupMatrixLoad<Right, col_major>(&factor, ((first + ${step}u) * ${tiles}u + ${t}u) * 32u, 2u);
        sum${t} = subgroupMatrixMultiplyAccumulate(a, b, sum${t});
      }`,
      )}
    }`,
    )}
    workgroupBarrier();
  }
  ${times(tiles, (t) => `subgroupMatrixStore<row_major>(&tile, (subgroup * ${tiles}u + ${t}u) * 64u, sum${t}, 4u);`)}
  workgroupBarrier();
  for (var i = local; i < ${64 * tiles}u; i += ${threads}u) {
    var sum = vec4f(0.0);
    ${times(SUBGROUPS, (s) => `sum += bitcast<vec4f>(tile[${s * 64 * tiles}u + i]);`)}
    let row = row0 + i % 64u / 4u;
    let rank = (i / 64u * 4u + i % 4u) * 4u; // among those of all factors
    if (row < u.rows) {
      ${hasScales ? 'sum *= scales[row];' : ''}
      sum *= vec4f(factorScales[rank], factorScales[rank + 1u], factorScales[rank + 2u], factorScales[rank + 3u]);
      ${times(ranks.length, (f) => {
        const start = 4 * quadsOf(ranks.slice(0, f));
        return times(4, (e) => {
          const own = `rank + ${e}u - ${start}u`;
          return `if (rank >= ${start}u && ${own} < ${ranks[f]}u) { low${f}[row * ${ranks[f]}u + ${own}] = sum[${e}]; }`;
        });
      })}
    }
  }`,
  };
});
