import type * as tf from '@tensorflow/tfjs';
import {HALVES, HALVES_HEADER} from '../device/halves.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {quadAt} from '../device/octets.ts';
import type {RowsView} from '../device/rowsView.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {buffersOf, formatOf, type Rows, type RowsFormat, shapeOf} from './packRows.ts';
import type {Result} from './product.ts';

/** Number of ranks that one thread holds sums for; a larger rank is done in blocks of this size. */
const RANKS = 16;

const blockOf = (rank: number) => Math.min(rank, RANKS);

/** How a shader declares and reads vectors of rows; packed rows have whole ones. */
const reading = ({isPacked, hasScales, inOctets}: RowsFormat, cols: number) => {
  const {type, width} = vectorOf(cols);
  return {
    buffers: {x: isPacked ? ('vec2u' as const) : type, scales: hasScales ? ('f32' as const) : undefined},
    vector: (row: string, c: string) => {
      const at = `x[${quadAt(row, c, cols / width, inOctets)}]`;
      return isPacked ? `widened(${at})` : at;
    },
    scale: (row: string) => (hasScales ? `scales[${row}] * ` : ''),
    header: isPacked ? HALVES_HEADER : '',
    globals: isPacked ? HALVES : '',
  };
};

/** Takes four neighbours at a time if rows are whole vectors. */
const vectorOf = (cols: number) =>
  cols % 4 === 0 ? ({type: 'vec4f', width: 4} as const) : ({type: 'f32', width: 1} as const);

const PROJECTORS = 128; // threads
/** From this many rows on, the card is busy with fewer threads for each. */
const MANY_ROWS = 4096;

/** Number of threads that share a row. */
const teamOf = (rows: number) => (rows < MANY_ROWS ? 64 : 16);

/**
 * Computes `scale · x · factorᵀ`, from the wide side to the narrow one. A team of threads shares a row of `x`, which is
 * read once.
 *
 * @param x `[rows, cols]`
 * @param factor `[rank, cols]` float32
 * @returns `[rows, rank]`
 */
export function project(
  backend: WebGPUBackend,
  x: Rows,
  factor: tf.TensorInfo,
  scale: number,
): tf.TensorInfo {
  const [rows, cols] = shapeOf(x);
  const [rank] = factor.shape;
  const team = teamOf(rows);
  const low = backend.makeTensorInfo([rows, rank], 'float32');
  runShader(backend, {
    shader: projection(cols, rank, formatOf(x), team),
    buffers: {low, factor, ...buffersOf(x)},
    uniforms: {rows, scale},
    workgroups: [Math.ceil(rows / (PROJECTORS / team)), Math.ceil(rank / blockOf(rank))],
  });
  return low;
}

const projection = shader((cols: number, rank: number, format: RowsFormat, team: number) => {
  const block = blockOf(rank);
  const {type, width} = vectorOf(cols);
  const rows = reading(format, cols);
  const teams = PROJECTORS / team;
  return {
    name: 'LowRankProject',
    outputs: {low: 'f32'},
    inputs: {...rows.buffers, factor: type},
    uniforms: {rows: 'u32', scale: 'f32'},
    workgroup: PROJECTORS,
    header: rows.header,
    globals: `
const VECTORS = ${cols / width}u;
const RANK = ${rank}u;
${rows.globals}
var<workgroup> partial: array<array<f32, ${team + 1}>, ${teams * block}>; // one more, for other memory banks`,
    body: `
  let row = group.x * ${teams}u + local / ${team}u;
  let share = local % ${team}u;
  let rank0 = group.y * ${block}u;
  let own = min(row, u.rows - 1u);
  ${times(block, (j) => `var sum${j} = ${type}(0.0);`)}
  for (var c = share; c < VECTORS; c += ${team}u) {
    let value = ${rows.vector('own', 'c')};
    ${times(block, (j) => `sum${j} += value * factor[min(rank0 + ${j}u, RANK - 1u) * VECTORS + c];`)}
  }
  ${times(block, (j) => `partial[(local / ${team}u) * ${block}u + ${j}u][share] = ${width === 4 ? `dot(sum${j}, vec4f(1.0))` : `sum${j}`};`)}
  workgroupBarrier();
  for (var k = local; k < ${teams * block}u; k += WORKGROUP) {
    var sum = 0.0;
    for (var l = 0u; l < ${team}u; l++) { sum += partial[k][l]; }
    let at = group.x * ${teams}u + k / ${block}u;
    let rank = rank0 + k % ${block}u;
    if (at < u.rows && rank < RANK) { low[at * RANK + rank] = ${rows.scale('at')}u.scale * sum; }
  }`,
  };
});

/** Number of rows that a thread of {@link expand} computes with the factor's columns it holds. */
const EXPAND_ROWS = 8;

/**
 * Computes `base + low · factor`, from the narrow side to the wide one.
 *
 * @param low `[rows, rank]` float32
 * @param factor `[rank, cols]` float32
 * @param base `[rows, cols]` float32. Default zeros
 */
export function expand(
  backend: WebGPUBackend,
  low: tf.TensorInfo,
  factor: tf.TensorInfo,
  base?: tf.TensorInfo,
): tf.TensorInfo {
  const [rows, rank] = low.shape;
  const [, cols] = factor.shape;
  const y = backend.makeTensorInfo([rows, cols], 'float32');
  runShader(backend, {
    shader: expansion(cols, rank, base !== undefined),
    buffers: {y, low, factor, base},
    uniforms: {rows},
    workgroups: [Math.ceil(cols / vectorOf(cols).width / 64), Math.ceil(rows / EXPAND_ROWS)],
  });
  return y;
}

const expansion = shader((cols: number, rank: number, hasBase: boolean) => {
  const {type, width} = vectorOf(cols);
  return {
    name: 'LowRankExpand',
    outputs: {y: type},
    inputs: {low: 'f32', factor: type, base: hasBase ? type : undefined},
    uniforms: {rows: 'u32'},
    workgroup: 64,
    globals: `
const VECTORS = ${cols / width}u;
const RANK = ${rank}u;`,
    body: `
  let c = group.x * WORKGROUP + local;
  if (c >= VECTORS) { return; }
  let row0 = group.y * ${EXPAND_ROWS}u;
  ${times(EXPAND_ROWS, (i) => `var sum${i} = ${type}(0.0);`)}
  ${times(EXPAND_ROWS, (i) => `let from${i} = min(row0 + ${i}u, u.rows - 1u) * RANK;`)}
  for (var j = 0u; j < RANK; j++) {
    let f = factor[j * VECTORS + c];
    ${times(EXPAND_ROWS, (i) => `sum${i} += low[from${i} + j] * f;`)}
  }
  ${times(
    EXPAND_ROWS,
    (i) =>
      `if (row0 + ${i}u < u.rows) { let at = (row0 + ${i}u) * VECTORS + c; y[at] = ${hasBase ? 'base[at] + ' : ''}sum${i}; }`,
  )}`,
  };
});

/**
 * Adds `low · factor` to a product's result; see {@link expand}.
 *
 * @param scales of the rows of the product's operand, if `y` is packed and they have them
 */
export function expandInto(
  backend: WebGPUBackend,
  low: tf.TensorInfo,
  factor: tf.TensorInfo,
  {y, kind}: Result,
  scales?: RowsView,
): void {
  const [rows, rank] = low.shape;
  const [, cols] = factor.shape;
  const isPacked = kind === 'halves';
  const format = {isPacked, hasScales: isPacked && scales !== undefined, inOctets: y.inOctets ?? false};
  runShader(backend, {
    shader: expansionInto(cols, rank, format),
    buffers: {y, low, factor, scales: format.hasScales ? scales : undefined},
    uniforms: {rows},
    workgroups: [Math.ceil(cols / 4 / 64), Math.ceil(rows / EXPAND_ROWS)],
  });
}

const expansionInto = shader((cols: number, rank: number, {isPacked, hasScales, inOctets}: RowsFormat) => ({
  name: 'LowRankExpandInto',
  outputs: {y: isPacked ? 'vec2u' : 'vec4f'},
  inputs: {low: 'f32', factor: 'vec4f', scales: hasScales ? 'f32' : undefined},
  uniforms: {rows: 'u32'},
  workgroup: 64,
  header: isPacked ? HALVES_HEADER : '',
  globals: `
const VECTORS = ${cols / 4}u;
const RANK = ${rank}u;
${isPacked ? HALVES : ''}`,
  body: `
  let c = group.x * WORKGROUP + local;
  if (c >= VECTORS) { return; }
  let row0 = group.y * ${EXPAND_ROWS}u;
  ${times(EXPAND_ROWS, (i) => `var sum${i} = vec4f(0.0);`)}
  ${times(EXPAND_ROWS, (i) => `let from${i} = min(row0 + ${i}u, u.rows - 1u) * RANK;`)}
  for (var j = 0u; j < RANK; j++) {
    let f = factor[j * VECTORS + c];
    ${times(EXPAND_ROWS, (i) => `sum${i} += low[from${i} + j] * f;`)}
  }
  ${times(EXPAND_ROWS, (i) => {
    const added = hasScales ? `sum${i} / scales[row0 + ${i}u]` : `sum${i}`;
    const body = isPacked ? `y[at] = halved(widened(y[at]) + ${added});` : `y[at] += ${added};`;
    return `if (row0 + ${i}u < u.rows) { let at = ${quadAt(`row0 + ${i}u`, 'c', cols / 4, inOctets)}; ${body} }`;
  })}`,
}));

/** The fewest rows that one workgroup of {@link gradientOfFactor} adds up. */
const MIN_SPLIT = 64;
const MAX_SPLITS = 128;
/** Number of workgroups that keep a card busy. */
const BUSY_GROUPS = 1024;

/**
 * Computes `lowᵀ · x`, the gradient of a factor. The rows are split among workgroups, whose sums a second pass adds up.
 *
 * @param low `[rows, rank]` float32
 * @param x `[rows, cols]`
 * @param sum the gradient of other rows, to which this one is added
 * @returns `[rank, cols]`, or `[cols, rank]` when `isTransposed`; `sum` if it is given
 */
export function gradientOfFactor(
  backend: WebGPUBackend,
  low: tf.TensorInfo,
  x: Rows,
  isTransposed: boolean,
  sum?: tf.TensorInfo,
): tf.TensorInfo {
  const [rows, rank] = low.shape;
  const [, cols] = shapeOf(x);
  const across = Math.ceil(cols / vectorOf(cols).width / 64);
  const fitting = Math.floor(backend.device.limits.maxStorageBufferBindingSize / (4 * rank * cols));
  const wanted = Math.min(MAX_SPLITS, Math.ceil(BUSY_GROUPS / across), Math.floor(rows / MIN_SPLIT), fitting);
  const splits = Math.max(1, wanted);
  const partial = makeScratch(backend, [splits, rank, cols]);
  runShader(backend, {
    shader: partialGradients(cols, rank, formatOf(x)),
    buffers: {partial, low, ...buffersOf(x)},
    uniforms: {rows, split: Math.ceil(rows / splits)},
    workgroups: [across, splits, Math.ceil(rank / blockOf(rank))],
  });
  const gradient = sum ?? backend.makeTensorInfo(isTransposed ? [cols, rank] : [rank, cols], 'float32');
  runShader(backend, {
    shader: sumOfGradients(isTransposed, sum !== undefined),
    buffers: {gradient, partial},
    uniforms: {splits, rank, cols},
    threads: rank * cols,
  });
  backend.disposeData(partial.dataId);
  return gradient;
}

const partialGradients = shader((cols: number, rank: number, format: RowsFormat) => {
  const {type, width} = vectorOf(cols);
  const rows = reading(format, cols);
  const block = blockOf(rank);
  const narrow = vectorOf(rank);
  const perRow = rank / narrow.width;
  const element = (i: number, j: number) =>
    narrow.width === 4
      ? `l${i}${j >> 2}.${'xyzw'[j & 3]}`
      : `low[(row + ${i}u) * RANK + min(rank0 + ${j}u, RANK - 1u)]`;
  const loads = (i: number) =>
    narrow.width === 4
      ? times(
          block / 4,
          (q) => `let l${i}${q} = low[(row + ${i}u) * ${perRow}u + min(rank0 / 4u + ${q}u, ${perRow - 1}u)];`,
        )
      : '';
  const add = (count: number) => `
    ${times(count, (i) => `let v${i} = ${rows.scale(`row + ${i}u`)}${rows.vector(`row + ${i}u`, 'c')}; ${loads(i)}`)}
    ${times(count, (i) => times(block, (j) => `sum${j} += v${i} * ${element(i, j)};`))}`;
  return {
    name: 'LowRankGradient',
    outputs: {partial: type},
    inputs: {low: narrow.type, ...rows.buffers},
    uniforms: {rows: 'u32', split: 'u32'},
    workgroup: 64,
    header: rows.header,
    globals: `
const VECTORS = ${cols / width}u;
const RANK = ${rank}u;
${rows.globals}`,
    body: `
  let c = group.x * WORKGROUP + local;
  if (c >= VECTORS) { return; }
  let rank0 = group.z * ${block}u;
  ${times(block, (j) => `var sum${j} = ${type}(0.0);`)}
  let end = min((group.y + 1u) * u.split, u.rows);
  var row = group.y * u.split;
  for (; row + 4u <= end; row += 4u) { // four reads in flight
    ${add(4)}
  }
  for (; row < end; row++) {
    ${add(1)}
  }
  ${times(block, (j) => `if (rank0 + ${j}u < RANK) { partial[(group.y * RANK + rank0 + ${j}u) * VECTORS + c] = sum${j}; }`)}`,
  };
});

const sumOfGradients = shader((isTransposed: boolean, isAdded: boolean) => ({
  name: 'LowRankGradientSum',
  outputs: {gradient: 'f32'},
  inputs: {partial: 'f32'},
  uniforms: {splits: 'u32', rank: 'u32', cols: 'u32'},
  workgroup: 64,
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i >= u.rank * u.cols) { return; }
  var sum = 0.0;
  for (var s = 0u; s < u.splits; s++) { sum += partial[s * u.rank * u.cols + i]; }
  gradient[${isTransposed ? '(i % u.cols) * u.rank + i / u.cols' : 'i'}] ${isAdded ? '+=' : '='} sum;`,
}));

/** Transposes `[rows, cols]` to `[cols, rows]`, for the small factors. */
export function transposed(backend: WebGPUBackend, x: tf.TensorInfo): tf.TensorInfo {
  const [rows, cols] = x.shape;
  const y = backend.makeTensorInfo([cols, rows], 'float32');
  runShader(backend, {
    shader: transposition(),
    buffers: {y, x},
    uniforms: {rows, cols},
    threads: rows * cols,
  });
  return y;
}

const transposition = shader(() => ({
  name: 'LowRankTranspose',
  outputs: {y: 'f32'},
  inputs: {x: 'f32'},
  uniforms: {rows: 'u32', cols: 'u32'},
  workgroup: 64,
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i < u.rows * u.cols) { y[i] = x[(i % u.rows) * u.cols + i / u.rows]; }`,
}));
