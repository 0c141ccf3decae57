import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/**
 * Pieces of WGSL for shaders that multiply 16×16 matrices by whole subgroups. Matrices are named one by one, never
 * indexed, because an array of them would be in slow memory. Tiles in workgroup memory are float16, with
 * {@link PADDING} between rows, so that rows start on different memory banks.
 */

/** How a workgroup shares work: the number of subgroups, each with `16 · blocks` rows, and `cols` columns at a time. */
export interface Layout {
  subgroups: number;
  blocks: number;
  cols: number;
}

/**
 * Fits a layout to heads of size `dim`: whole tiles, and as many subgroups as workgroup memory has room for.
 *
 * @param memoryOf returns the bytes of a subgroup, and the bytes that all share
 */
export function fitted(
  {device}: WebGPUBackend,
  wanted: Layout,
  dim: number,
  memoryOf: (layout: Layout) => [subgroup: number, shared: number],
): Layout {
  const layout = {...wanted, cols: dim % wanted.cols === 0 ? wanted.cols : 16};
  const limit = device.limits.maxComputeWorkgroupStorageSize;
  const [subgroup, shared] = memoryOf(layout);
  while (layout.subgroups > 1 && shared + layout.subgroups * subgroup > limit) layout.subgroups /= 2;
  return layout;
}

/** Extra elements between the rows of a tile. */
export const PADDING = 8;

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

/** WGSL that writes eight float16 from the words `from` to `tile`, starting at index `at`. */
export const storeEight = (tile: string, at: string, from: string): string =>
  ['x', 'y', 'z', 'w']
    .map(
      (word, j) => `{ let pair = bitcast<vec2<f16>>(${from}.${word});
    ${tile}[${at} + ${2 * j}u] = pair.x; ${tile}[${at} + ${2 * j + 1}u] = pair.y; }`,
    )
    .join('\n');

/** WGSL of a tile of packed rows, loaded from memory through a thread's registers into workgroup memory. */
export interface Tile {
  /** Declares the registers. */
  registers: string;
  /** Fills them with the rows from `first` on, counted from the head's first row; with zeros from `limit` on. */
  load(first: string, limit: string): string;
  /** Writes them into the tile. */
  store: string;
}

/**
 * @param name name of the array in workgroup memory
 * @param source a buffer of packed rows, `array<vec4u>`
 * @param base WGSL of the head's first row
 */
export function tileOf(
  name: string,
  source: string,
  {rows, dim, base, threads}: {rows: number; dim: number; base: string; threads: number},
): Tile {
  const perRow = dim / 8;
  const count = rows * perRow;
  const shares = Math.ceil(count / threads);
  const guard = (i: number, body: string) =>
    (i + 1) * threads > count ? `if (local < ${count - i * threads}u) { ${body} }` : body;
  const at = (i: number) => `(local + ${i * threads}u)`;
  return {
    registers: times(shares, (i) => `var ${name}Next${i}: vec4u;`),
    load: (first, limit) =>
      times(shares, (i) =>
        guard(
          i,
          `{ let row = ${first} + ${at(i)} / ${perRow}u;
      ${name}Next${i} = vec4u(0);
      if (row < ${limit}) { ${name}Next${i} = ${source}[(${base} + row) * ${perRow}u + ${at(i)} % ${perRow}u]; } }`,
        ),
      ),
    store: times(shares, (i) =>
      guard(
        i,
        `{ let to = (${at(i)} / ${perRow}u) * ${dim + PADDING}u + (${at(i)} % ${perRow}u) * 8u;
      ${storeEight(name, 'to', `${name}Next${i}`)} }`,
      ),
    ),
  };
}

/**
 * WGSL that loads each subgroup's `16 · blocks` packed rows of `source` (`array<vec4u>`) as left matrices `name00` …
 * `name<i><d>`, through `scratch`, a workgroup array with rows `cols + PADDING` apart, in which the subgroup's own rows
 * begin at `weightRegion`.
 *
 * @param base WGSL of the head's first row; `first` is the workgroup's first row after it; rows from `limit` on are
 *   zeros
 */
export const loadLeft = (
  name: string,
  source: string,
  scratch: string,
  {base, first, limit}: Record<'base' | 'first' | 'limit', string>,
  {subgroups, blocks, cols, dim}: Layout & {dim: number},
): string =>
  times(dim / cols, (chunk) => {
    const perRow = cols / 8;
    return `
    for (var i = local; i < ${16 * blocks * subgroups * perRow}u; i += ${32 * subgroups}u) {
      let row = ${first} + i / ${perRow}u;
      var words = vec4u(0);
      if (row < ${limit}) { words = ${source}[(${base} + row) * ${dim / 8}u + ${chunk * perRow}u + i % ${perRow}u]; }
      let to = (i / ${perRow}u) * ${cols + PADDING}u + (i % ${perRow}u) * 8u;
      ${storeEight(scratch, 'to', 'words')}
    }
    workgroupBarrier();
    ${times(blocks, (i) =>
      times(
        cols / 16,
        (d) =>
          `let ${name}${i}${(chunk * cols) / 16 + d} = subgroupMatrixLoad<Left, row_major>(&${scratch}, weightRegion + ${16 * i * (cols + PADDING) + 16 * d}u, ${cols + PADDING}u);`,
      ),
    )}
    workgroupBarrier();`;
  });

/**
 * WGSL that writes `left · tileᵀ`, `16 · blocks` rows by `cols`, to `scores` from index `at` on, rows `cols + 4` apart.
 */
export const scoresOf = (
  left: string,
  tile: string,
  at: string,
  {blocks, dim, cols}: {blocks: number; dim: number; cols: number},
): string =>
  times(
    cols / 16,
    (j) => `{
    ${times(blocks, (i) => `var sum${i} = Sum();`)} // initialized explicitly: in a loop a bare declaration may keep its last value
    ${times(
      dim / 16,
      (d) => `{
      let b = subgroupMatrixLoad<Right, col_major>(&${tile}, ${16 * j * (dim + PADDING) + 16 * d}u, ${dim + PADDING}u);
      ${times(blocks, (i) => `sum${i} = subgroupMatrixMultiplyAccumulate(${left}${i}${d}, b, sum${i});`)}
    }`,
    )}
    ${times(blocks, (i) => `subgroupMatrixStore<row_major>(&scores, ${at} + ${16 * i * (cols + 4) + 16 * j}u, sum${i}, ${cols + 4}u);`)}
  }`,
  );

/**
 * WGSL of `name += weights · tile` for the `16 · blocks` rows of `weights` from index `at` on, rows `cols + PADDING`
 * apart.
 */
export const accumulate = (
  name: string,
  weights: string,
  at: string,
  tile: string,
  {blocks, dim, cols}: {blocks: number; dim: number; cols: number},
): string =>
  times(
    cols / 16,
    (j) => `{
    ${times(
      blocks,
      (i) =>
        `let w${i} = subgroupMatrixLoad<Left, row_major>(&${weights}, ${at} + ${16 * i * (cols + PADDING) + 16 * j}u, ${cols + PADDING}u);`,
    )}
    ${times(
      dim / 16,
      (d) => `{
      let b = subgroupMatrixLoad<Right, row_major>(&${tile}, ${16 * j * (dim + PADDING) + 16 * d}u, ${dim + PADDING}u);
      ${times(blocks, (i) => `${name}${i}${d} = subgroupMatrixMultiplyAccumulate(w${i}, b, ${name}${i}${d});`)}
    }`,
    )}
  }`,
  );

/** WGSL that declares the sums `name00` … of {@link accumulate}. */
export const declareSums = (name: string, blocks: number, dim: number): string =>
  times(blocks, (i) => times(dim / 16, (d) => `var ${name}${i}${d} = Sum();`));

/**
 * WGSL that writes the sums `name00` … to `scores`, `cols` columns at a time, and runs `body` on the lanes' own
 * elements there. With `isRead` it reads them back afterwards.
 *
 * @param at WGSL of the subgroup's first index of `scores`
 */
export const throughScores = (
  name: string,
  {blocks, dim, cols, at}: {blocks: number; dim: number; cols: number; at: string},
  body: (col: number) => string,
  isRead = false,
): string =>
  times(dim / cols, (chunk) => {
    const each = (statement: (place: string, sum: string) => string) =>
      times(blocks, (i) =>
        times(cols / 16, (j) =>
          statement(`${at} + ${16 * i * (cols + 4) + 16 * j}u`, `${name}${i}${(chunk * cols) / 16 + j}`),
        ),
      );
    return `
    ${each((place, sum) => `subgroupMatrixStore<row_major>(&scores, ${place}, ${sum}, ${cols + 4}u);`)}
    workgroupBarrier();
    ${body(chunk * cols)}
    workgroupBarrier();
    ${isRead ? each((place, sum) => `${sum} = subgroupMatrixLoad<Sum, row_major>(&scores, ${place}, ${cols + 4}u);`) : ''}
    ${isRead ? 'workgroupBarrier();' : ''}`;
  });
