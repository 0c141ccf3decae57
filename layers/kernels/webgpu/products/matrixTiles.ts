import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/**
 * Pieces of WGSL for shaders that multiply 16×16 matrices by whole subgroups. Matrices are named one by one, never
 * indexed, because an array of them would be in slow memory.
 *
 * Tiles in workgroup memory are arrays of `vec4u`, for float16 and float32 alike, so that each access moves sixteen
 * bytes and the compiler knows the alignment. A row ends with an unused vector, which keeps rows off the same banks.
 */

/**
 * How a workgroup shares work: the number of subgroups, each with `16 · blocks` rows. A tile has `steps · cols` rows, which
 * are multiplied `cols` at a time.
 */
export interface Layout {
  subgroups: number;
  blocks: number;
  cols: number;
  steps: number;
}

/** Sizes of the matrices of one subgroup: rows in blocks of 16, columns of a tile, and the size of a head. */
export interface Shape {
  blocks: number;
  cols: number;
  /** Numbers of a head that the subgroup multiplies. */
  dim: number;
  /** Numbers in a row of a tile or of packed rows. Default `dim`. */
  rowSize?: number;
  /** Vectors between rows of scores and weights. Default `halfStride(cols)`. */
  stride?: number;
}

/**
 * Fits a layout to a device's workgroup memory.
 *
 * @param memoryOf returns the bytes of a workgroup
 */
export function fitted<L extends Layout>(
  {device}: WebGPUBackend,
  wanted: L,
  memoryOf: (layout: L) => number,
): L {
  const layout = {...wanted};
  const limit = device.limits.maxComputeWorkgroupStorageSize;
  while (layout.steps > 1 && memoryOf(layout) > limit) layout.steps /= 2;
  while (layout.subgroups > 1 && memoryOf(layout) > limit) layout.subgroups /= 2;
  return layout;
}

/** Returns the vectors between the rows of a tile of float16. */
export const halfStride = (cols: number): number => cols / 8 + 1;

/** Vectors between the rows of a matrix of float32 in workgroup memory, and of the whole matrix. */
export const FLOAT_STRIDE = 5;
export const FLOAT_MATRIX = 16 * FLOAT_STRIDE;

/**
 * Returns the vectors of the rows that a subgroup exchanges with its matrices: `16 · blocks` rows of `cols` float16. One
 * matrix of float32 fits, too.
 */
export const regionOf = ({blocks, cols}: Pick<Layout, 'blocks' | 'cols'>): number =>
  Math.max(16 * blocks * halfStride(cols), FLOAT_MATRIX);

export const MATRIX_HEADER = `
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);
diagnostic(off, subgroup_uniformity);
alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sum = subgroup_matrix_result<f32, 16, 16>;
`;

/** Declares the sums of {@link scoresOf}, which a device may not have. */
export const HALF_SUM = 'alias HalfSum = subgroup_matrix_result<f16, 16, 16>;';

/** WGSL of a tile of packed rows, loaded from memory through a thread's registers into workgroup memory. */
export interface Tile {
  /** Declares the registers. */
  registers: string;
  /** Fills them with the rows from `first` on, counted from the row `base`; from `limit` on, the row before it is repeated. */
  load(first: string, base: string, limit: string): string;
  /** Writes them into the tile, which starts at index `at` of its array. */
  store(at?: string): string;
}

/**
 * @param name prefix of the registers' names
 * @param source a buffer of packed rows, `array<vec4u>`
 * @param size the tile's rows, their size and the workgroup's threads; `array` is the name of the array in workgroup memory,
 *   by default `name`
 */
export function tileOf(
  name: string,
  source: string,
  {rows, dim, threads, array = name}: {rows: number; dim: number; threads: number; array?: string},
): Tile {
  const perRow = dim / 8;
  const count = rows * perRow;
  const shares = Math.ceil(count / threads);
  const guard = (i: number, body: string) =>
    (i + 1) * threads > count ? `if (local < ${count - i * threads}u) { ${body} }` : `{ ${body} }`;
  const at = (i: number) => `(local + ${i * threads}u)`;
  return {
    registers: times(shares, (i) => `var ${name}Next${i}: vec4u;`),
    load: (first, base, limit) =>
      times(shares, (i) =>
        guard(
          i,
          `let row = min(${first} + ${at(i)} / ${perRow}u, ${limit} - 1u);
      ${name}Next${i} = ${source}[(${base} + row) * ${perRow}u + ${at(i)} % ${perRow}u];`,
        ),
      ),
    store: (to = '0u') =>
      times(shares, (i) =>
        guard(
          i,
          `${array}[${to} + (${at(i)} / ${perRow}u) * ${halfStride(dim)}u + ${at(i)} % ${perRow}u] = ${name}Next${i};`,
        ),
      ),
  };
}

/**
 * WGSL that loads each subgroup's `16 · blocks` packed rows as left matrices `name00` … `name<i><d>`, through the subgroup's
 * rows of `scores` from index `region` on.
 *
 * @param source a buffer of packed rows, `array<vec4u>`, or returns WGSL of the vector at an index
 * @param base WGSL of the head's first row; `first` is the subgroup's first row after it; rows from `limit` on are
 *   zeros
 */
export function loadLeft(
  name: string,
  source: string | ((index: string) => string),
  {base, first, limit}: Record<'base' | 'first' | 'limit', string>,
  {blocks, cols, dim, rowSize = dim}: Shape,
): string {
  const stride = halfStride(cols);
  const vectorAt = typeof source === 'string' ? (index: string) => `${source}[${index}]` : source;
  return times(Math.ceil(dim / cols), (chunk) => {
    const perRow = Math.min(cols, dim - chunk * cols) / 8;
    return `
    for (var i = lane; i < ${16 * blocks * perRow}u; i += 32u) {
      let row = ${first} + i / ${perRow}u;
      var words = vec4u(0);
      if (row < ${limit}) { words = ${vectorAt(`(${base} + row) * ${rowSize / 8}u + ${(chunk * cols) / 8}u + i % ${perRow}u`)}; }
      scores[region + (i / ${perRow}u) * ${stride}u + i % ${perRow}u] = words;
    }
    workgroupBarrier();
    ${times(blocks, (i) =>
      times(
        perRow / 2,
        (d) =>
          `let ${name}${i}${(chunk * cols) / 16 + d} = subgroupMatrixLoad<Left, row_major>(&scores, region + ${16 * i * stride + 2 * d}u, ${stride}u);`,
      ),
    )}
    workgroupBarrier();`;
  });
}

/**
 * WGSL that writes `left · tileᵀ`, `16 · blocks` rows by `cols`, as float16 to `scores` from index `to` on. Sums that do
 * not depend on each other alternate.
 *
 * @param at WGSL of the tile's first index
 * @param part which part of the inner side is multiplied, of how many
 */
export const scoresOf = (
  left: string,
  tile: string,
  at: string,
  to: string,
  {blocks, dim, cols, rowSize = dim, stride = halfStride(cols)}: Shape,
  {part, parts}: {part: number; parts: number},
): string => {
  const each = (body: (i: number, j: number) => string) =>
    times(cols / 16, (j) => times(blocks, (i) => body(i, j)));
  const [first, last] = [part, part + 1].map((p) => Math.ceil((p * dim) / 16 / parts));
  return `{
    ${each((i, j) => `var sum${i}${j} = HalfSum();`)} // initialized explicitly: in a loop a bare declaration may keep its last value
    ${times(last - first, (m) =>
      times(
        cols / 16,
        (j) => `{
      let b = subgroupMatrixLoad<Right, col_major>(&${tile}, ${at} + ${16 * j * halfStride(rowSize) + 2 * (first + m)}u, ${halfStride(rowSize)}u);
      ${times(blocks, (i) => `sum${i}${j} = subgroupMatrixMultiplyAccumulate(${left}${i}${first + m}, b, sum${i}${j});`)}
    }`,
      ),
    )}
    ${each((i, j) => `subgroupMatrixStore<row_major>(&scores, ${to} + ${16 * i * stride + 2 * j}u, sum${i}${j}, ${stride}u);`)}
  }`;
};

/**
 * WGSL of `name += weights · tile` for the subgroup's `16 · blocks` rows of weights, which are in `scores`.
 *
 * @param at WGSL of the tile's first index
 * @param from WGSL of the weights' first index
 */
export const accumulate = (
  name: string,
  tile: string,
  at: string,
  {blocks, dim, cols, rowSize = dim, stride = halfStride(cols)}: Shape,
  from = 'region',
): string =>
  times(
    cols / 16,
    (j) => `{
    ${times(
      blocks,
      (i) =>
        `let w${i} = subgroupMatrixLoad<Left, row_major>(&scores, ${from} + ${16 * i * stride + 2 * j}u, ${stride}u);`,
    )}
    ${times(
      dim / 16,
      (d) => `{
      let b = subgroupMatrixLoad<Right, row_major>(&${tile}, ${at} + ${16 * j * halfStride(rowSize) + 2 * d}u, ${halfStride(rowSize)}u);
      ${times(blocks, (i) => `${name}${i}${d} = subgroupMatrixMultiplyAccumulate(w${i}, b, ${name}${i}${d});`)}
    }`,
    )}
  }`,
  );

/** WGSL that declares the sums `name00` … of {@link accumulate}. */
export const declareSums = (name: string, blocks: number, dim: number): string =>
  times(blocks, (i) => times(dim / 16, (d) => `var ${name}${i}${d} = Sum();`));

/** WGSL that sets them to zero. */
export const clearSums = (name: string, blocks: number, dim: number): string =>
  times(blocks, (i) => times(dim / 16, (d) => `${name}${i}${d} = Sum();`));

/**
 * WGSL that writes the sums `name00` … to `output` (`array<vec4f>`), through the subgroup's rows of `scores`. In WGSL
 * `r` is the row among the subgroup's, and `sum` the vector.
 *
 * @param write WGSL that writes `sum` to the vector `col` of row `r`
 */
export const writeSums = (name: string, {blocks, dim}: Shape, write: string): string =>
  times(dim / 16, (d) =>
    times(
      blocks,
      (i) => `
    subgroupMatrixStore<row_major>(&scores, region, ${name}${i}${d}, ${FLOAT_STRIDE}u);
    workgroupBarrier();
    for (var i = lane; i < 64u; i += 32u) {
      let r = ${16 * i}u + i / 4u;
      let sum = bitcast<vec4f>(scores[region + (i / 4u) * ${FLOAT_STRIDE}u + i % 4u]);
      let col = ${4 * d}u + i % 4u;
      ${write}
    }
    workgroupBarrier();`,
    ),
  );
