import type * as tf from '@tensorflow/tfjs';
import {octetAt, placeInTile} from '../device/octets.ts';
import {ROWS_STEP, type RowsView, rowsView} from '../device/rowsView.ts';
import {runShader} from '../device/runShader.ts';
import {type ElementType, numbered, shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import {capabilitiesOf, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {MATRIX_HEADER} from './matrixTiles.ts';
import {formatOf, type PackedRows, type RowsFormat, SHIFT} from './packRows.ts';

/** A factor of a low-rank path, from its wide side to the narrow one. */
export interface Factor {
  /** `[rank, cols]` float32, or `[cols, rank]` if it is transposed. */
  tensor: tf.TensorInfo;
  isTransposed: boolean;
  /** Multiplies the result. */
  scale: number;
}

/** Factors that the same rows are multiplied by, as {@link matrixProject} takes them. */
export interface FactorPack {
  cols: number;
  ranks: number[];
  /** float16 in tiles of 16 ranks by 16 columns, which follow each other by rank and then by column. */
  factor: RowsView;
  /** The number by which each rank's sums are multiplied. */
  scales: RowsView;
}

/** Rows of a workgroup, and of a matrix. */
const SIDE = 16;

/** How a workgroup shares its rows. */
interface Team {
  subgroups: number;
  /** Vectors of eight numbers that it reads of each row at a time; each subgroup multiplies its part of them. */
  width: number;
}
/** Five of these run on an H200's processor. */
const TEAM: Team = {subgroups: 4, width: 32};
/** Two of these run there. They are faster for as few rows as do not need more: 36 instead of 43 µs for 4096 of 8192. */
const LARGE_TEAM: Team = {subgroups: 8, width: 64};
const MANY_ROWS = 4096;

/** Returns the vectors of workgroup memory that a team takes: rows of x, then each subgroup's sums. */
const memoryOf = ({subgroups, width}: Team, tiles: number): number =>
  Math.max(SIDE * (width + 1), 64 * subgroups * tiles);

function teamFor({device}: WebGPUBackend, rows: number, tiles: number): Team {
  const {maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup} = device.limits;
  const {subgroups, width} = LARGE_TEAM;
  const vectors = memoryOf(LARGE_TEAM, tiles);
  const fits =
    vectors === SIDE * (width + 1) &&
    16 * vectors <= maxComputeWorkgroupStorageSize &&
    32 * subgroups <= maxComputeInvocationsPerWorkgroup;
  return rows <= MANY_ROWS && fits ? LARGE_TEAM : TEAM;
}

/** The most factors that share rows, and tiles of their ranks: the sums of more would not fit the registers. */
const MOST_FACTORS = 3;
const MOST_TILES = 8;

const sidesOf = ({tensor: {shape}, isTransposed}: Factor) =>
  isTransposed ? {cols: shape[0], rank: shape[1]} : {cols: shape[1], rank: shape[0]};
const quadsOf = (ranks: number[]) => ranks.reduce((sum, rank) => sum + Math.ceil(rank / 4), 0);
const tilesOf = (ranks: number[]) => Math.ceil((4 * quadsOf(ranks)) / SIDE);

/** Whether {@link matrixProject} takes these factors, which have the same number of columns. */
export function fitsMatrixProject(backend: WebGPUBackend, factors: Factor[]): boolean {
  const {hasMatrices, computeDtype} = capabilitiesOf(backend);
  const sides = factors.map(sidesOf);
  return (
    hasMatrices &&
    computeDtype === 'float16' &&
    sides.every(({cols}) => cols % SIDE === 0) &&
    factors.length <= MOST_FACTORS &&
    tilesOf(sides.map(({rank}) => rank)) <= MOST_TILES
  );
}

/** Ranks of a group's scales: views of them begin at a multiple of 256 bytes. */
const scalesOf = (ranks: number[]) => ROWS_STEP * Math.ceil((SIDE * tilesOf(ranks)) / ROWS_STEP);

/** The sides of factors that share rows. */
interface Group {
  cols: number;
  ranks: number[];
  areTransposed: boolean[];
}

/**
 * Packs factors in one dispatch. They are rounded to float16 after scaling each rank by a power of two.
 *
 * @param groups those that share rows; see {@link fitsMatrixProject}
 * @returns a pack for each group, and the tensors in which they are, which the caller disposes
 */
export function packFactors(
  backend: WebGPUBackend,
  groups: Factor[][],
): {packs: FactorPack[]; tensors: tf.TensorInfo[]} {
  const sides = groups.map((group): Group => {
    const own = group.map(sidesOf);
    return {
      cols: own[0].cols,
      ranks: own.map(({rank}) => rank),
      areTransposed: group.map(({isTransposed}) => isTransposed),
    };
  });
  const sum = (of: (group: Group) => number, count = sides.length) =>
    sides.slice(0, count).reduce((total, group) => total + of(group), 0);
  const words = ({cols, ranks}: Group) => (SIDE * tilesOf(ranks) * cols) / 2;
  const factor = backend.makeTensorInfo([sum(words)], 'int32');
  const scales = backend.makeTensorInfo([sum(({ranks}) => scalesOf(ranks))], 'float32');
  const all = groups.flat();
  runShader(backend, {
    shader: packing(sides),
    buffers: {factor, factorScales: scales, ...numbered('given', all.length, (i) => all[i].tensor)},
    uniforms: numbered('scale', all.length, (i) => all[i].scale),
    workgroups: sum(({ranks}) => SIDE * tilesOf(ranks)),
  });
  const packs = sides.map(({cols, ranks}, i) => ({
    cols,
    ranks,
    factor: rowsView(factor, sum(words, i), words(sides[i])),
    scales: rowsView(
      scales,
      sum(({ranks}) => scalesOf(ranks), i),
      scalesOf(ranks),
    ),
  }));
  return {packs, tensors: [factor, scales]};
}

/**
 * Computes `scale · x · factorᵀ` for each factor of a pack by subgroup matrices, and reads `x` once.
 *
 * @returns float32 `[rows, rank]` for each factor. The caller disposes them
 */
export function matrixProject(
  backend: WebGPUBackend,
  x: PackedRows,
  {cols, ranks, factor, scales: factorScales}: FactorPack,
): tf.TensorInfo[] {
  const [rows] = x.halves.shape;
  const lows = ranks.map((rank) => backend.makeTensorInfo([rows, rank], 'float32'));
  runShader(backend, {
    shader: projection(cols, ranks, formatOf(x), teamFor(backend, rows, tilesOf(ranks))),
    buffers: {
      ...numbered('low', ranks.length, (i) => lows[i]),
      x: x.halves,
      scales: x.scales,
      factor,
      factorScales,
    },
    uniforms: {rows},
    workgroups: Math.ceil(rows / SIDE),
  });
  return lows;
}

/** The ranks of a factor begin at a multiple of four, and those of a group at a whole tile. A workgroup packs one rank. */
const packing = shader((groups: Group[]) => {
  let [row, base, scales, factor] = [0, 0, 0, 0];
  const places: string[] = [];
  const values: string[] = [];
  const units: string[] = [];
  for (const {cols, ranks, areTransposed} of groups) {
    const tiles = tilesOf(ranks);
    places.push(`if (row >= ${row}u) { place = Place(${row}u, ${tiles}u, ${cols}u, ${base}u, ${scales}u); }`);
    for (const [i, rank] of ranks.entries()) {
      const first = row + 4 * quadsOf(ranks.slice(0, i));
      const own = `(row - ${first}u)`;
      const at = areTransposed[i] ? `col * ${rank}u + ${own}` : `${own} * ${cols}u + col`;
      values.push(`if (row >= ${first}u && row < ${first + rank}u) { return given${factor}[${at}]; }`);
      units.push(`if (row >= ${first}u) { unit = u.scale${factor}; }`);
      factor++;
    }
    row += SIDE * tiles;
    base += (SIDE * tiles * cols) / 8;
    scales += scalesOf(ranks);
  }
  return {
    name: 'PackFactors',
    outputs: {factor: 'vec4u', factorScales: 'f32'},
    inputs: numbered('given', factor, () => 'f32'),
    uniforms: numbered('scale', factor, () => 'f32'),
    workgroup: 256,
    header: 'enable f16;',
    globals: `
var<workgroup> maxima: array<f32, WORKGROUP>;
${SHIFT}
struct Place { row: u32, tiles: u32, cols: u32, base: u32, scales: u32 }
fn placeOf(row: u32) -> Place {
  var place: Place;
  ${places.join('\n')}
  return place;
}
fn valueAt(row: u32, col: u32) -> f32 {
  ${values.join('\n')}
  return 0.0;
}
fn half4(row: u32, col: u32, scale: f32) -> vec2u {
  let v = vec4f(valueAt(row, col), valueAt(row, col + 1u), valueAt(row, col + 2u), valueAt(row, col + 3u));
  return bitcast<vec2u>(vec4<f16>(scale * v));
}`,
    body: `
  let row = group.x;
  let place = placeOf(row);
  let own = row - place.row;
  var largest = 0.0;
  for (var col = local; col < place.cols; col += WORKGROUP) { largest = max(largest, abs(valueAt(row, col))); }
  maxima[local] = largest;
  workgroupBarrier();
  for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
    if (local < width) { maxima[local] = max(maxima[local], maxima[local + width]); }
    workgroupBarrier();
  }
  let shift = shiftOf(maxima[0]);
  let scale = powerOfTwo(shift);
  for (var octet = local; octet < place.cols / 8u; octet += WORKGROUP) {
    let at = place.base + (octet / 2u * place.tiles + own / 16u) * 32u + own % 16u * 2u + octet % 2u;
    factor[at] = vec4u(half4(row, 8u * octet, scale), half4(row, 8u * octet + 4u, scale));
  }
  if (local == 0u) {
    var unit = 0.0;
    ${units.join('\n')}
    factorScales[place.scales + own] = unit * powerOfTwo(-shift);
  }`,
  };
});

const projection = shader((cols: number, ranks: number[], {hasScales, inOctets}: RowsFormat, team: Team) => {
  const tiles = tilesOf(ranks);
  const vectors = cols / 8;
  const {subgroups, width} = team;
  const threads = 32 * subgroups;
  const steps = (width * 8) / (SIDE * subgroups);
  const stride = width + 1; // for other memory banks
  const loads = (SIDE * width) / threads; // vectors of a thread
  const isWhole = vectors % width === 0;
  const place = (i: number) => placeInTile({rows: SIDE, cols: width, threads, inOctets}, i);
  const load = (from: string) =>
    times(loads, (i) => {
      const {row, col} = place(i);
      const value = `x[${octetAt(`min(row0 + ${row}, u.rows - 1u)`, 'v', vectors, inOctets)}]`;
      const guarded = `if (v < ${vectors}u) { next${i} = ${value}; } else { next${i} = vec4u(0); }`;
      return `{ let v = ${from} + ${col}; ${isWhole ? `next${i} = ${value};` : guarded} }`;
    });
  return {
    name: 'MatrixProject',
    outputs: numbered('low', ranks.length, (): ElementType => 'f32'),
    inputs: {x: 'vec4u', scales: hasScales ? 'f32' : undefined, factor: 'vec4u', factorScales: 'f32'},
    uniforms: {rows: 'u32'},
    workgroup: threads,
    header: MATRIX_HEADER,
    globals: `
var<workgroup> tile: array<vec4u, ${memoryOf(team, tiles)}>;`,
    body: `
  let row0 = flatGroup * ${SIDE}u;
  ${times(tiles, (t) => `var sum${t} = Sum();`)}
  ${times(loads, (i) => `var next${i}: vec4u;`)}
  ${load('0u')}
  for (var v0 = 0u; v0 < ${vectors}u; v0 += ${width}u) {
    ${times(loads, (i) => `tile[(${place(i).row}) * ${stride}u + ${place(i).col}] = next${i};`)}
    workgroupBarrier();
    if (v0 + ${width}u < ${vectors}u) {
      ${load(`v0 + ${width}u`)}
    }
    let first = v0 / 2u + subgroup * ${steps}u; // matrix along the columns
    ${times(
      steps,
      (step) => `${isWhole ? '' : `if (first + ${step}u < ${cols / SIDE}u) `}{
      let a = subgroupMatrixLoad<Left, row_major>(&tile, subgroup * ${2 * steps}u + ${2 * step}u, ${stride}u);
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
    ${times(subgroups, (s) => `sum += bitcast<vec4f>(tile[${s * 64 * tiles}u + i]);`)}
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
