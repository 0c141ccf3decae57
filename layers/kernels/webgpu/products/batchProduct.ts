import type * as tf from '@tensorflow/tfjs';
import type {RowsView} from '../device/rowsView.ts';
import {runShader} from '../device/runShader.ts';
import {type ElementType, shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import {capabilitiesOf, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {type NumberedWeights, numberWeights} from '../weights/numberWeights.ts';
import type {Product} from './product.ts';
import type {Factor, RowOptions} from './rowProduct.ts';

const WORKGROUP = 256;
/** The most rows that {@link runBatchProducts} takes. */
export const BATCH_ROWS = 16;
/** Shaders are declared for this many rows, or for the most, so that few of them must be compiled. */
const FEW_ROWS = 8;
/** From this many rows of the result on, a team takes four rows of the weights, otherwise two. */
const MANY_ROWS = 8192;
/** Number of sums that a workgroup adds up over its teams at the same time: 8 KiB. */
const SUMS_AT_ONCE = 8;

/** Whether {@link runBatchProducts} is the fastest way for so many rows: subgroup matrices compute them in float16. */
export function usesBatchProducts(backend: WebGPUBackend, count: number): boolean {
  const {hasMatrices, computeDtype} = capabilitiesOf(backend);
  return count <= BATCH_ROWS && !(hasMatrices && computeDtype === 'float16');
}

/** Computes `y = x · Wᵀ` for several rows; see {@link runBatchProducts}. */
export function runBatchProduct(backend: WebGPUBackend, {x, weight, rows}: Product, y: tf.TensorInfo): void {
  runBatchProducts(backend, x, [{weight, rows}], y);
}

/**
 * Computes `x · Wᵀ` for up to {@link BATCH_ROWS} rows, as in generation for a batch, in float32. A team of threads takes
 * several rows of W, which are read once; each vector of `x` that a thread reads serves all of them. The number of
 * columns must be a multiple of 8.
 *
 * @param x `[m, cols]` float32
 * @param factors weights of equal formats; with several, their rows must be multiples of 8
 * @param y as for `runRowProducts`
 */
export function runBatchProducts(
  backend: WebGPUBackend,
  x: RowsView,
  factors: Factor[],
  y: RowsView,
  {base, isGated = false}: Omit<RowOptions, 'norm'> = {},
): void {
  const [count, cols] = x.shape;
  const m = count <= FEW_ROWS ? FEW_ROWS : BATCH_ROWS;
  const team = cols > 4096 ? 64 : 32;
  const weights = numberWeights(factors.map(({weight}) => weight));
  const rows = factors.map(({rows}) => rows);
  const total = isGated ? rows[0] : rows.reduce((sum, count) => sum + count, 0);
  const perTeam = isGated || total < MANY_ROWS ? 2 : 4;
  const teams = Math.ceil(total / perTeam);
  runShader(backend, {
    shader: dotsOfBatch({m, cols, team, perTeam}, rows, {isGated, hasBase: base !== undefined}, weights),
    buffers: {y, x, base, ...weights.tensors},
    uniforms: {count, ...weights.values},
    workgroups: Math.ceil((teams * team) / WORKGROUP),
  });
}

interface Sides {
  /** The most rows of x. */
  m: number;
  cols: number;
  /** Threads that share rows of the weights. */
  team: number;
  /** Columns of the result that a team computes. */
  perTeam: number;
}

interface Kind {
  isGated: boolean;
  hasBase: boolean;
}

const dotsOfBatch = shader(
  ({m, cols, team, perTeam}: Sides, rows: number[], {isGated, hasBase}: Kind, weights: NumberedWeights) => {
    const total = isGated ? rows[0] : rows.reduce((sum, count) => sum + count, 0);
    const starts = rows.map((_, w) => rows.slice(0, w).reduce((sum, count) => sum + count, 0));
    const each = (body: (row: number) => string) => times(m, body);
    const perColumn = isGated ? 2 : 1; // sums for a number of the result
    const width = perTeam * perColumn; // rows of the weights that a thread reads
    // Adds the products of four columns to the sums: `sum<row of x>_<row of the weights>`.
    const dots = (vector: string, half: number) =>
      each(
        (i) => `{
        let v = x[min(${i}u, u.count - 1u) * K + ${vector}];
        ${times(width, (j) => `sum${i}_${j} += v.x * w${j}[${half}].x + v.y * w${j}[${half}].y + v.z * w${j}[${half}].z + v.w * w${j}[${half}].w;`)}
      }`,
      );
    // Of all weights one after another, or of gate and up in turn.
    const octet = (j: number) =>
      isGated
        ? `weightOctet${j % 2}(min(row + ${j >> 1}u, ${total - 1}u), k * 4u)`
        : `octetOf(min(row + ${j}u, ${total - 1}u), k * 4u)`;
    const octetOf = isGated
      ? ''
      : `fn octetOf(row: u32, col: u32) -> mat2x4f {
  ${times(rows.length - 1, (w) => `if (row < ${starts[w + 1]}u) { return weightOctet${w}(row - ${starts[w]}u, col); }`)}
  return weightOctet${rows.length - 1}(row - ${starts[rows.length - 1]}u, col);
}`;
    const sums = Array.from({length: m * width}, (_, q) => `sum${Math.floor(q / width)}_${q % width}`);
    const place =
      isGated || rows.length === 1
        ? `i * ${total}u + col`
        : rows.reduce(
            (at, count, w) =>
              w === 0
                ? `i * ${count}u + col`
                : `select(${at}, u.count * ${starts[w]}u + i * ${count}u + col - ${starts[w]}u, col >= ${starts[w]}u)`,
            '',
          );
    const value = isGated
      ? `let gate = partial[2u * member][first];
      let v = gate / (1.0 + exp(-gate)) * partial[2u * member + 1u][first];`
      : 'let v = partial[member][first];';
    // Adds up some sums over the team, and stores the numbers of the result that they make.
    const reduced = (from: number) => {
      const some = sums.slice(from, from + SUMS_AT_ONCE);
      return `
  ${some.map((sum, s) => `partial[${s}][local] = ${sum};`).join('\n')}
  workgroupBarrier();
  for (var width = TEAM / 2u; width > 0u; width /= 2u) {
    if (member < width) { ${times(some.length, (s) => `partial[${s}][local] += partial[${s}][local + width];`)} }
    workgroupBarrier();
  }
  if (member < ${some.length / perColumn}u) {
    let number = ${from / perColumn}u + member;
    let i = number / ${perTeam}u;
    let col = row + number % ${perTeam}u;
    let first = local - member;
    if (i < u.count && col < ${total}u) {
      ${value}
      let at = ${place};
      y[at] = v${hasBase ? ' + base[at]' : ''};
    }
  }
  workgroupBarrier();`;
    };
    return {
      name: 'BatchProduct',
      outputs: {y: 'f32'},
      inputs: {x: 'vec4f', base: (hasBase ? 'f32' : undefined) as ElementType, ...weights.buffers},
      uniforms: {count: 'u32', ...weights.uniforms},
      workgroup: WORKGROUP,
      globals: `
const TEAM = ${team}u;
const K = ${cols / 4}u; // in vectors
${weights.octets()}
${octetOf}
var<workgroup> partial: array<array<f32, WORKGROUP>, ${SUMS_AT_ONCE}>;`,
      body: `
  let member = local % TEAM;
  let row = (flatGroup * ${WORKGROUP / team}u + local / TEAM) * ${perTeam}u;
  ${weights.prepare}
  ${sums.map((sum) => `var ${sum} = 0.0;`).join(' ')}
  if (row < ${total}u) {
    for (var k = member * 2u; k < K; k += TEAM * 2u) {
      ${times(width, (j) => `let w${j} = ${octet(j)};`)}
      ${dots('k', 0)}
      ${dots('k + 1u', 1)}
    }
  }
  ${Array.from({length: Math.ceil(sums.length / SUMS_AT_ONCE)}, (_, c) => reduced(c * SUMS_AT_ONCE)).join('')}`,
    };
  },
);
