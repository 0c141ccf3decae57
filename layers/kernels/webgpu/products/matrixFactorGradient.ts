import type * as tf from '@tensorflow/tfjs';
import {HALVES} from '../device/halves.ts';
import {largestOverWorkgroup} from '../device/largestOverWorkgroup.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {octetAt, placeInTile} from '../device/octets.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import {capabilitiesOf, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {halfStride, MATRIX_HEADER} from './matrixTiles.ts';
import {formatOf, type PackedRows, type RowsFormat, SHIFT} from './packRows.ts';

const SUBGROUPS = 4;
const THREADS = 32 * SUBGROUPS;
/** Columns of a subgroup, and of a workgroup. */
const SHARE = 64;
const COLS = SHARE * SUBGROUPS;
/** Rows in workgroup memory at a time: with 16, five workgroups run on an H200's processor, and with 32, two. */
const DEPTH = 16;
const MOST_RANKS = 64;
/** Number of workgroups that keep a card busy, and the fewest rows of one. */
const BUSY_GROUPS = 396;
const MIN_ROWS = 2 * DEPTH;

const tilesOf = (rank: number) => Math.ceil(rank / 16);

/** Whether {@link matrixFactorGradient} takes these sides. */
export function fitsFactorGradient(backend: WebGPUBackend, x: PackedRows, rank: number): boolean {
  const {hasMatrices, computeDtype} = capabilitiesOf(backend);
  const cols = 2 * x.halves.shape[1];
  return hasMatrices && computeDtype === 'float16' && cols % 16 === 0 && rank % 4 === 0 && rank <= MOST_RANKS;
}

/**
 * Computes `lowᵀ · x`, the gradient of a factor, by subgroup matrices. Rows are split among workgroups, each of which
 * scales its part of `low` by a power of two before rounding it to float16; a second pass adds up their sums.
 *
 * @param low `[rows, rank]` float32
 * @param x `[rows, cols]`
 * @param sum the gradient of other rows, to which this one is added
 * @returns `[rank, cols]`, or `[cols, rank]` when `isTransposed`; `sum` if it is given
 */
export function matrixFactorGradient(
  backend: WebGPUBackend,
  low: tf.TensorInfo,
  x: PackedRows,
  isTransposed: boolean,
  sum?: tf.TensorInfo,
): tf.TensorInfo {
  const [rows, rank] = low.shape;
  const cols = 2 * x.halves.shape[1];
  const across = Math.ceil(cols / COLS);
  const wanted = Math.min(Math.ceil(BUSY_GROUPS / across), Math.ceil(rows / MIN_ROWS));
  const split = DEPTH * Math.ceil(rows / wanted / DEPTH);
  const splits = Math.ceil(rows / split);
  const partial = makeScratch(backend, [splits, 16 * tilesOf(rank), cols]);
  const units = backend.makeTensorInfo([splits], 'float32');
  runShader(backend, {
    shader: partialGradients(cols, rank, formatOf(x)),
    buffers: {partial, units, low, x: x.halves, scales: x.scales},
    uniforms: {rows, split},
    workgroups: [across, splits],
  });
  const gradient = sum ?? backend.makeTensorInfo(isTransposed ? [cols, rank] : [rank, cols], 'float32');
  runShader(backend, {
    shader: sumOfGradients(cols, rank, isTransposed, sum !== undefined),
    buffers: {gradient, partial, units},
    uniforms: {splits},
    threads: rank * cols,
  });
  for (const {dataId} of [partial, units]) backend.disposeData(dataId);
  return gradient;
}

const partialGradients = shader((cols: number, rank: number, {hasScales, inOctets}: RowsFormat) => {
  const tiles = tilesOf(rank);
  const quads = rank / 4;
  const [vectors, perRow] = [cols / 8, COLS / 8];
  const loads = (DEPTH * perRow) / THREADS; // vectors of x for a thread
  const lowLoads = Math.ceil((DEPTH * quads) / THREADS);
  const strideLow = halfStride(16 * tiles);
  const strideX = halfStride(COLS);
  const scaleOf = (row: string) => (hasScales ? ` * scales[${row}]` : '');
  const eachLow = (body: (i: number, at: string) => string) =>
    times(lowLoads, (i) => {
      const at = `(local + ${i * THREADS}u)`;
      return (i + 1) * THREADS > DEPTH * quads
        ? `if (${at} < ${DEPTH * quads}u) { ${body(i, at)} }`
        : `{ ${body(i, at)} }`;
    });
  const place = (i: number) => placeInTile({rows: DEPTH, cols: perRow, threads: THREADS, inOctets}, i);
  const load = `
    ${times(
      loads,
      (i) =>
        `next${i} = x[${octetAt(`min(row0 + ${place(i).row}, u.rows - 1u)`, `col${i}`, vectors, inOctets)}];`,
    )}
    ${eachLow(
      (i, at) => `
      let row = row0 + ${at} / ${quads}u;
      lowNext${i} = vec4f(0.0);
      if (row < end) { lowNext${i} = low[row * ${quads}u + ${at} % ${quads}u] * factor${scaleOf('row')}; }`,
    )}`;
  return {
    name: 'MatrixFactorGradient',
    outputs: {partial: 'vec4u', units: 'f32'},
    inputs: {low: 'vec4f', x: 'vec4u', scales: hasScales ? 'f32' : undefined},
    uniforms: {rows: 'u32', split: 'u32'},
    workgroup: THREADS,
    header: MATRIX_HEADER,
    globals: `
${HALVES}
${SHIFT}
${largestOverWorkgroup(THREADS)}
var<workgroup> tileX: array<vec4u, ${DEPTH * strideX}>;
var<workgroup> tileLow: array<vec4u, ${DEPTH * strideLow}>;`,
    body: `
  let begin = group.y * u.split;
  let end = min(begin + u.split, u.rows);
  ${times(loads, (i) => `let col${i} = min(group.x * ${perRow}u + ${place(i).col}, ${vectors - 1}u); // in vectors`)}
  var largest = 0.0;
  for (var i = begin * ${quads}u + local; i < end * ${quads}u; i += WORKGROUP) {
    largest = max(largest, largestOf4(low[i]${scaleOf(`i / ${quads}u`)}));
  }
  let shift = shiftOf(largestOverWorkgroup(largest, local));
  let factor = powerOfTwo(shift);
  if (local == 0u) { units[group.y] = powerOfTwo(-shift); }
  for (var i = local; i < ${DEPTH * strideLow}u; i += WORKGROUP) { tileLow[i] = vec4u(0); } // also ranks that there are not
  workgroupBarrier();
  ${times(tiles, (t) => times(SHARE / 16, (j) => `var sum${t}${j} = Sum();`))}
  ${times(loads, (i) => `var next${i}: vec4u;`)}
  ${times(lowLoads, (i) => `var lowNext${i}: vec4f;`)}
  var row0 = begin;
  ${load}
  while (row0 < end) {
    ${times(loads, (i) => `tileX[(${place(i).row}) * ${strideX}u + ${place(i).col}] = next${i};`)}
    ${eachLow(
      (i, at) => `
      let words = halved(lowNext${i});
      let quad = ${at} % ${quads}u;
      let to = ${at} / ${quads}u * ${strideLow}u + quad / 2u;
      tileLow[to][2u * (quad % 2u)] = words.x;
      tileLow[to][2u * (quad % 2u) + 1u] = words.y;`,
    )}
    workgroupBarrier();
    row0 += ${DEPTH}u;
    if (row0 < end) {
      ${load}
    }
    ${times(
      DEPTH / 16,
      (step) => `{
      ${times(tiles, (t) => `let a${t} = subgroupMatrixLoad<Left, col_major>(&tileLow, ${16 * step * strideLow + 2 * t}u, ${strideLow}u);`)}
      ${times(
        SHARE / 16,
        (j) => `{
        let b = subgroupMatrixLoad<Right, row_major>(&tileX, subgroup * ${SHARE / 8}u + ${16 * step * strideX + 2 * j}u, ${strideX}u);
        ${times(tiles, (t) => `sum${t}${j} = subgroupMatrixMultiplyAccumulate(a${t}, b, sum${t}${j});`)}
      }`,
      )}
    }`,
    )}
    workgroupBarrier();
  }
  ${times(
    SHARE / 16,
    (j) => `{
    let col = group.x * ${COLS}u + subgroup * ${SHARE}u + ${16 * j}u;
    if (col < ${cols}u) {
      ${times(tiles, (t) => `subgroupMatrixStore<row_major>(&partial, ((group.y * ${16 * tiles}u + ${16 * t}u) * ${cols}u + col) / 4u, sum${t}${j}, ${cols / 4}u);`)}
    }
  }`,
  )}`,
  };
});

/** Number of reads in flight. */
const AHEAD = 12;

const sumOfGradients = shader((cols: number, rank: number, isTransposed: boolean, isAdded: boolean) => ({
  name: 'SumFactorGradients',
  outputs: {gradient: 'f32'},
  inputs: {partial: 'f32', units: 'f32'},
  uniforms: {splits: 'u32'},
  workgroup: 64,
  globals: `const STRIDE = ${16 * tilesOf(rank) * cols}u;`,
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i >= ${rank * cols}u) { return; }
  var sum = 0.0;
  var s = 0u;
  for (; s + ${AHEAD}u <= u.splits; s += ${AHEAD}u) {
    ${times(AHEAD, (e) => `let next${e} = partial[(s + ${e}u) * STRIDE + i];`)}
    ${times(AHEAD, (e) => `sum += units[s + ${e}u] * next${e};`)}
  }
  for (; s < u.splits; s++) { sum += units[s] * partial[s * STRIDE + i]; }
  gradient[${isTransposed ? `(i % ${cols}u) * ${rank}u + i / ${cols}u` : 'i'}] ${isAdded ? '+=' : '='} sum;`,
}));
