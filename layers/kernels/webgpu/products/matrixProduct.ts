import type * as tf from '@tensorflow/tfjs';
import {HALVES} from '../device/halves.ts';
import {OCTETS_STEP} from '../device/octets.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import {rowClass, runTuned} from '../device/tuning.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {halvesOf, type WeightFormat} from '../weights/weightFormat.ts';
import {FLOAT_MATRIX, FLOAT_STRIDE, halfStride, MATRIX_HEADER} from './matrixTiles.ts';
import type {PackedRows} from './packRows.ts';
import {pipelined} from './pipelinedTiles.ts';
import {
  type Product,
  type Result,
  type ResultFormat,
  resultFormat,
  resultType,
  sidesOf,
  storeQuad,
} from './product.ts';

/** How a workgroup shares the work of its tile of the result. */
export interface Tiling {
  /** Rows of the tile. */
  rows: number;
  cols: number;
  /** How much of k is in workgroup memory at the same time. */
  depth: number;
  /** Rows of a subgroup's share of the tile. */
  shareRows: number;
  shareCols: number;
  /** Number of rows of tiles that are computed together, so that their operands are still in the cache. */
  together: number;
}

/**
 * The fastest of about twenty on an H100, for all shapes of Llama 3.2. It takes 20 KiB of workgroup memory; with 40 KiB,
 * fewer workgroups fit an H200's processor, and the product is a third slower.
 */
export const TILING: Tiling = {
  rows: 128,
  cols: 128,
  depth: 32,
  shareRows: 64,
  shareCols: 64,
  together: 8,
};

/** {@link TILING}, and tilings that may be faster on another card or for another shape. */
export const TILINGS: readonly Tiling[] = [
  TILING,
  {...TILING, together: 4},
  {...TILING, together: 16},
  {...TILING, depth: 16},
  {...TILING, cols: 64, shareCols: 32},
  {...TILING, rows: 64, shareRows: 32},
  {...TILING, rows: 64, cols: 64, shareRows: 32, shareCols: 32},
];

/** Added to the product, rounded to float16: `low · factor`, or `low · factorᵀ` if the factor is transposed. */
export interface LowRankUpdate {
  /** `[m, rank]` float32; `rank` a multiple of 4, at most 16. */
  low: tf.TensorInfo;
  /** `[rank, n]` float32, or `[n, rank]`. */
  factor: tf.TensorInfo;
  isTransposed: boolean;
}

/** The way of octets from memory through a thread's registers to a tile in workgroup memory. */
interface Passage {
  registers: string;
  load: string;
  store: string;
}

/**
 * The product by subgroup matrices: float16 operands, float32 sums. The next tiles are loaded into registers while the
 * current ones are multiplied. The matrices of a subgroup are named one by one, not indexed, because an array of them
 * would be in slow memory.
 *
 * k and n must be multiples of 8. Rows in octets are multiplied as {@link pipelined} says, and only by a weight that is
 * not transposed.
 *
 * @param result with splits, `y` is float32 `[splits, m, n]` for the sums over each of `splits` parts of k
 * @param update only with one split
 */
function matrixProduct(
  product: Product,
  result: Result,
  packed: PackedRows,
  {splits = 1, update, tiling}: {splits?: number; update?: LowRankUpdate; tiling: Tiling},
) {
  const {weight, rows, cols, transposeWeight} = product;
  const path = {rank: update ? update.low.shape[1] : 0, isTransposed: update?.isTransposed ?? false};
  const {m, n} = sidesOf(product);
  const {y, kind} = result;
  const {inOctets = false} = packed.halves;
  const scales = kind === 'halves' && !update ? undefined : packed.scales; // those of the result are the operand's
  return {
    shader: productOf(
      weight,
      {rows, cols, transposeWeight},
      splits,
      path,
      {...resultFormat(result), hasScales: scales !== undefined, isPipelined: inOctets},
      tiling,
    ),
    buffers: {
      y,
      x: packed.halves,
      scales,
      low: update?.low,
      factor: update?.factor,
      ...weight.tensors,
    },
    uniforms: {m, ...weight.values},
    workgroups: [Math.ceil(n / tiling.cols), Math.ceil(m / tiling.rows), splits] as [number, number, number],
  };
}

/** With fewer tiles than this, many of a card's processors have none. */
const FEW_TILES = 132;

/** Returns the tilings for a result of a size, the default first: small tiles if there are few others. */
export function tilingsFor(m: number, n: number, splits = 1): readonly Tiling[] {
  const count = Math.ceil(m / TILING.rows) * Math.ceil(n / TILING.cols) * splits;
  return count < FEW_TILES ? [...TILINGS].reverse() : TILINGS;
}

/** Runs {@link matrixProduct} in the fastest tiles known for its shape. */
export function runMatrixProduct(
  backend: WebGPUBackend,
  product: Product,
  result: Result,
  packed: PackedRows,
  options: {splits?: number; update?: LowRankUpdate} = {},
): void {
  const {weight, rows, cols, transposeWeight} = product;
  if (packed.halves.inOctets) {
    if (transposeWeight || rows % OCTETS_STEP !== 0)
      throw new Error(
        `Expected octets · [K, N], K a multiple of ${OCTETS_STEP}, got [${rows}, ${cols}], transposed ${transposeWeight}.`,
      );
    runShader(backend, matrixProduct(product, result, packed, {...options, tiling: TILING}));
    return;
  }
  const {splits = 1, update} = options;
  const rank = update?.low.shape[1] ?? 0;
  const {kind} = result;
  const shape = [
    rowClass(product.x.shape[0]),
    rows,
    cols,
    `${transposeWeight}`,
    splits,
    rank,
    weight.key,
    kind,
  ];
  const {m, n} = sidesOf(product);
  runTuned(backend, 'MatrixProduct', shape, tilingsFor(m, n, splits), (tiling) =>
    matrixProduct(product, result, packed, {...options, tiling}),
  );
}

type Stored = Pick<Product, 'rows' | 'cols' | 'transposeWeight'>;

/** The low-rank path; rank 0 if there is none. */
interface Path {
  rank: number;
  isTransposed: boolean;
}

/** How the rows of operand and result are stored. */
interface Storage extends ResultFormat {
  hasScales: boolean;
  isPipelined: boolean;
}

const productOf = shader(
  (weight: WeightFormat, stored: Stored, splits: number, path: Path, storage: Storage, tiling: Tiling) => {
    const {rows, cols, transposeWeight} = stored;
    const {depth, shareRows, shareCols, together} = tiling;
    const threads = threadsOf(tiling);
    const [n, k] = transposeWeight ? [rows, cols] : [cols, rows];
    const part = Math.ceil(k / splits / depth) * depth; // of k
    const [countI, countJ] = countsOf(tiling);
    const {size, code} = storage.isPipelined ? pipelined(k) : stepwise(stored, tiling);
    const across = Math.ceil(n / tiling.cols);
    return {
      name: 'MatrixProduct',
      outputs: {y: resultType(storage.kind)},
      inputs: {
        x: 'vec4u',
        scales: storage.hasScales ? 'f32' : undefined,
        low: path.rank > 0 ? 'vec4f' : undefined,
        factor: path.rank > 0 ? 'vec4f' : undefined,
        ...weight.buffers,
      },
      uniforms: {m: 'u32', ...weight.uniforms},
      workgroup: threads,
      header: MATRIX_HEADER,
      globals: `
const K = ${k}u;
const N = ${n}u;
const PART = ${part}u;
${weight.octet()}
${halvesOf(weight)}
${storage.kind === 'halves' || path.rank > 0 ? HALVES : ''}
// Both tiles, rows of float16; in the end the subgroups' results, matrices of float32.
var<workgroup> tiles: array<vec4u, ${Math.max(size, FLOAT_MATRIX * countI * (threads / 32))}>;`,
      body: `
  ${weight.prepare}
  let place = group.y * ${across}u + group.x;
  let band = place / ${together * across}u * ${together}u;
  let height = min(${together}u, (u.m + ${tiling.rows - 1}u) / ${tiling.rows}u - band);
  let row0 = (band + place % ${together * across}u % height) * ${tiling.rows}u;
  let col0 = (place % ${together * across}u / height) * ${tiling.cols}u;
  let shareRow = (subgroup / ${tiling.cols / shareCols}u) * ${shareRows}u;
  let shareCol = (subgroup % ${tiling.cols / shareCols}u) * ${shareCols}u;
  ${times(countI, (i) => times(countJ, (j) => `var c${i}${j} = Sum();`))}
  ${splits === 1 ? 'var k0 = 0u; const end = K;' : 'var k0 = group.z * PART; let end = min(k0 + PART, K);'}
  ${code}
  ${path.rank > 0 ? lowRankStep(path, storage.hasScales, tiling) : ''}
  ${written(splits, n, storage, tiling)}`,
    };
  },
);

/** WGSL of the loop over k for rows that are stored row by row, from `k0` to `end`, and its vectors of workgroup memory. */
function stepwise({rows, cols, transposeWeight}: Stored, tiling: Tiling): {size: number; code: string} {
  const {depth} = tiling;
  const threads = threadsOf(tiling);
  const k = transposeWeight ? cols : rows;
  const [tallB, wideB] = transposeWeight ? [tiling.cols, depth] : [depth, tiling.cols];
  const sizeA = tiling.rows * halfStride(depth);
  const size = sizeA + tallB * halfStride(wideB); // of both tiles, in vectors

  const isWholeK = k % depth === 0;
  const left = passage('left', '0u', tiling.rows, depth, threads, (r, c) => ({
    value: `x[(min(row0 + ${r}, u.m - 1u) * K + k0 + ${c}) / 8u]`,
    isThere: isWholeK ? '' : `k0 + ${c} < K`,
  }));
  const [rowB, colB] = transposeWeight ? ['col0', 'k0'] : ['k0', 'col0'];
  const right = passage('right', `${sizeA}u`, tallB, wideB, threads, (r, c) => ({
    value: `weightHalves(${rowB} + ${r}, ${colB} + ${c})`,
    isThere: [
      rows % tallB ? `${rowB} + ${r} < ${rows}u` : '',
      cols % wideB ? `${colB} + ${c} < ${cols}u` : '',
    ]
      .filter(Boolean)
      .join(' && '),
  }));
  const code = `
${left.registers}
${right.registers}
${left.load}
${right.load}
while (k0 < end) {
  ${left.store}
  ${right.store}
  workgroupBarrier();
  k0 += ${depth}u;
  if (k0 < end) {
    ${left.load}
    ${right.load}
  }
  ${multiplied(transposeWeight, sizeA, [halfStride(depth), halfStride(wideB)], tiling)}
  workgroupBarrier();
}
`;
  return {size, code};
}

/**
 * WGSL that adds the products of the subgroup's share of both tiles to its matrices `c00` ….
 *
 * @param sizeA where the right tile begins after the left one, and the strides of both
 */
function multiplied(
  transposeWeight: boolean,
  sizeA: number,
  [strideA, strideB]: [number, number],
  tiling: Tiling,
): string {
  const [countI, countJ] = countsOf(tiling);
  const order = transposeWeight ? 'col_major' : 'row_major';
  return times(tiling.depth / 16, (step) => {
    const fromB = (j: number) =>
      transposeWeight
        ? `shareCol * ${strideB}u + ${sizeA + 16 * j * strideB + 2 * step}u`
        : `shareCol / 8u + ${sizeA + 16 * step * strideB + 2 * j}u`;
    return `{
    ${times(countI, (i) => `let a${i} = subgroupMatrixLoad<Left, row_major>(&tiles, shareRow * ${strideA}u + ${16 * i * strideA + 2 * step}u, ${strideA}u);`)}
    ${times(
      countJ,
      (j) => `{
      let b = subgroupMatrixLoad<Right, ${order}>(&tiles, ${fromB(j)}, ${strideB}u);
      ${times(countI, (i) => `c${i}${j} = subgroupMatrixMultiplyAccumulate(a${i}, b, c${i}${j});`)}
    }`,
    )}
  }`;
  });
}

/**
 * WGSL that adds the low-rank path as one more step of k, which is filled up with zeros. Its rows are divided by their
 * scales, as those of the product are. Added to the results one by one, it took a tenth of a product with k of 2048.
 */
function lowRankStep({rank, isTransposed}: Path, hasScales: boolean, tiling: Tiling): string {
  const quads = rank / 4;
  const threads = threadsOf(tiling);
  const perRow = tiling.cols / 8;
  const [strideA, strideB] = [halfStride(16), halfStride(tiling.cols)];
  const sizeA = tiling.rows * strideA;
  const quad = (q: number) =>
    q < quads ? `halved(clamp(low[row * ${quads}u + ${q}u] * unit, -limit, limit))` : 'vec2u(0u)';
  const four = (from: number) =>
    isTransposed
      ? `vec4f(${[0, 1, 2, 3].map((e) => `factor[(col + ${from + e}u) * ${quads}u + r / 4u][r % 4u]`).join(', ')})`
      : `factor[(r * N + col) / 4u + ${from / 4}u]`;
  return `{
  let limit = vec4f(65504.0);
  if (local < ${tiling.rows}u) {
    let row = min(row0 + local, u.m - 1u);
    let unit = ${hasScales ? '1.0 / scales[row]' : '1.0'};
    tiles[local * ${strideA}u] = vec4u(${quad(0)}, ${quad(1)});
    tiles[local * ${strideA}u + 1u] = vec4u(${quad(2)}, ${quad(3)});
  }
  ${times(
    (16 * perRow) / threads,
    (i) => `{
    let r = (local + ${i * threads}u) / ${perRow}u;
    let c = (local + ${i * threads}u) % ${perRow}u;
    let col = min(col0 + c * 8u, N - 8u);
    var words = vec4u(0u);
    if (r < ${rank}u) { words = vec4u(halved(${four(0)}), halved(${four(4)})); }
    tiles[${sizeA}u + r * ${strideB}u + c] = words;
  }`,
  )}
  workgroupBarrier();
  ${multiplied(false, sizeA, [strideA, strideB], {...tiling, depth: 16})}
  workgroupBarrier();
}`;
}

/**
 * WGSL that writes the matrices to `y` through workgroup memory; four lanes share a row. Rows past the end are skipped.
 */
function written(splits: number, cols: number, {hasScales, ...format}: Storage, tiling: Tiling): string {
  const [countI, countJ] = countsOf(tiling);
  const {kind} = format;
  const isAdded = kind === 'added';
  const stored: ResultFormat = isAdded ? {...format, kind: 'float32'} : format;
  const scale = hasScales && kind !== 'halves' ? 'scales[row] * ' : '';
  const rowOf = (i: number, h: number) => `row0 + shareRow + ${16 * i + 8 * h}u + lane / 4u`;
  const eachHalf = (body: (i: number, h: number) => string) =>
    times(countI, (i) => times(2, (h) => body(i, h)));
  // What the results are added to is read together, before it is needed.
  const read = (i: number, h: number) =>
    `let old${i}${h} = y[min(${rowOf(i, h)}, u.m - 1u) * ${cols / 4}u + min(col, N - 4u) / 4u];`;
  const half = (i: number, h: number) => `{
    let row = ${rowOf(i, h)};
    if (row < u.m && col < N) {
      let v = ${scale}bitcast<vec4f>(tiles[stage + ${FLOAT_MATRIX * i + 8 * h * FLOAT_STRIDE}u + lane / 4u * ${FLOAT_STRIDE}u + lane % 4u]);
      ${storeQuad(stored, splits === 1 ? 'row' : 'group.z * u.m + row', 'col / 4u', cols / 4, isAdded ? `old${i}${h} + v` : 'v')}
    }
  }`;
  return `
  let stage = subgroup * ${FLOAT_MATRIX * countI}u;
  ${times(
    countJ,
    (j) => `{
  let col = col0 + shareCol + ${16 * j}u + (lane % 4u) * 4u;
  ${isAdded ? eachHalf(read) : ''}
  ${times(countI, (i) => `subgroupMatrixStore<row_major>(&tiles, stage + ${FLOAT_MATRIX * i}u, c${i}${j}, ${FLOAT_STRIDE}u);`)}
  workgroupBarrier();
  ${eachHalf(half)}
  workgroupBarrier();
  }`,
  )}`;
}

const threadsOf = ({rows, cols, shareRows, shareCols}: Tiling): number =>
  32 * (rows / shareRows) * (cols / shareCols);

/** Returns the number of matrices in a subgroup's share, down and across. */
const countsOf = ({shareRows, shareCols}: Tiling): [number, number] => [shareRows / 16, shareCols / 16];

/**
 * WGSL that loads a tile. Threads take octets in turn, row by row; where a row has four octets, eight threads take two
 * rows that are four apart, because their octets are in different memory banks.
 *
 * @param at WGSL of the tile's place among the tiles
 * @param octet returns WGSL of the words at a row and a column of the tile, and of whether they exist; otherwise they
 *   are zeros
 */
function passage(
  name: string,
  at: string,
  rows: number,
  cols: number,
  threads: number,
  octet: (row: string, col: string) => {value: string; isThere: string},
): Passage {
  const perRow = cols / 8;
  const count = (rows * perRow) / threads;
  const next = (i: number) => `${name}Next${i}`;
  const [row, part] = [`${name}Row`, `${name}Part`]; // the thread's first octet; the others are as many rows below
  const rowOf = (i: number) => `(${row} + ${(i * threads) / perRow}u)`;
  return {
    registers: `
  let ${row} = ${perRow === 4 ? 'local / 32u * 8u + local / 8u % 4u + local / 4u % 2u * 4u' : `local / ${perRow}u`};
  let ${part} = local % ${perRow}u;
  ${times(count, (i) => `var ${next(i)}: vec4u;`)}`,
    load: times(count, (i) => {
      const {value, isThere} = octet('r', 'c');
      return `{
      let r = ${rowOf(i)};
      let c = ${part} * 8u;
      ${isThere ? `if (${isThere}) { ${next(i)} = ${value}; } else { ${next(i)} = vec4u(0); }` : `${next(i)} = ${value};`}
    }`;
    }),
    store: times(count, (i) => `tiles[${at} + ${rowOf(i)} * ${halfStride(cols)}u + ${part}] = ${next(i)};`),
  };
}
