import type * as tf from '@tensorflow/tfjs';
import type {RowsView} from '../device/rowsView.ts';
import {runShader} from '../device/runShader.ts';
import {type ElementType, shader} from '../device/shader.ts';
import {times} from '../device/times.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {type NumberedWeights, numberWeights} from '../weights/numberWeights.ts';
import type {WeightFormat} from '../weights/weightFormat.ts';
import type {Product} from './product.ts';

const WORKGROUP = 256;

/** A weight matrix, and its number of rows. */
export interface Factor {
  weight: WeightFormat;
  rows: number;
}

/** What a row product does in addition, in the same pass. */
export interface RowOptions {
  /** Normalizes the rows of `x` before: RMSNorm with this weight. */
  norm?: {weight: RowsView; epsilon: number};
  /** Added to the results of a single weight, `[m, n]`. */
  base?: RowsView;
  /** Whether two weights of the same shape are a gate and what it multiplies: `silu(x · W₀ᵀ) · (x · W₁ᵀ)`. */
  isGated?: boolean;
}

/** Computes `y = x · Wᵀ` for a few rows; see {@link runRowProducts}. */
export function runRowProduct(backend: WebGPUBackend, {x, weight, rows}: Product, y: tf.TensorInfo): void {
  runRowProducts(backend, x, [{weight, rows}], y);
}

/** Returns how many buffers {@link runRowProducts} binds. */
export const buffersOfRowProducts = (factors: Factor[], {norm, base}: RowOptions): number =>
  factors.reduce((count, {weight}) => count + Object.keys(weight.buffers).length, 2) +
  Number(norm !== undefined) +
  Number(base !== undefined);

/**
 * Computes `x · Wᵀ` for a few rows, as in generation. A team of threads takes each row of W, which is read once, whole
 * and in order. A workgroup has several teams, so that what a format prepares serves several rows. The number of
 * columns must be a multiple of 4.
 *
 * @param x `[m, cols]` float32
 * @param factors weights of equal formats; with several, their rows must be multiples of 8
 * @param y float32: `[m, rows]` of each weight one after another, or of both with `isGated`
 */
export function runRowProducts(
  backend: WebGPUBackend,
  x: RowsView,
  factors: Factor[],
  y: RowsView,
  options: RowOptions = {},
): void {
  const {norm, base, isGated = false} = options;
  const [m, cols] = x.shape;
  const team = cols > 4096 ? 64 : 32;
  const weights = numberWeights(factors.map(({weight}) => weight));
  const rows = factors.map(({rows}) => rows);
  const total = isGated ? rows[0] : rows.reduce((sum, count) => sum + count, 0);
  const kind = {isGated, hasNorm: norm !== undefined, hasBase: base !== undefined};
  runShader(backend, {
    shader: dotsOfRows(m, cols, team, rows, kind, weights),
    buffers: {y, x, norm: norm?.weight, base, ...weights.tensors},
    uniforms: {...(norm && {epsilon: norm.epsilon}), ...weights.values},
    workgroups: Math.ceil((total * team) / WORKGROUP),
  });
}

interface Kind {
  isGated: boolean;
  hasNorm: boolean;
  hasBase: boolean;
}

const dotsOfRows = shader(
  (m: number, cols: number, team: number, rows: number[], kind: Kind, weights: NumberedWeights) => {
    const {isGated, hasNorm, hasBase} = kind;
    const each = (body: (row: number) => string) => times(m, body);
    const sums = isGated ? 2 : 1; // of each row of x
    const width = m * sums + (hasNorm ? m : 0);
    const total = isGated ? rows[0] : rows.reduce((sum, count) => sum + count, 0);
    const factor = (i: number, vector: string) =>
      `x[${i}u * K + ${vector}]${hasNorm ? ` * norm[${vector}]` : ''}`;
    const dots = (vector: string, half: number, of: number[]) => `
        ${hasNorm ? each((i) => `{ let v = x[${i}u * K + ${vector}]; square${i} += dot(v, v); }`) : ''}
        ${each((i) => `{ let v = ${factor(i, vector)}; ${of.map((w, s) => `sum${i}${s} += dot(v, w${w}[${half}]);`).join(' ')} }`)}`;
    // The rows of some weights, which a team goes through together.
    const along = (of: number[], row: string) => `
    for (var k = member * 2u; k < K; k += TEAM * 2u) {
      ${of.map((w) => `let w${w} = weightOctet${w}(${row}, k * 4u);`).join('\n')}
      ${dots('k', 0, of)}
      ${cols % 8 === 0 ? '' : 'if (k + 1u < K)'} {
        ${dots('(k + 1u)', 1, of)}
      }
    }`;
    const starts = rows.map((_, w) => rows.slice(0, w).reduce((sum, count) => sum + count, 0));
    const chosen = rows.map(
      (count, w) =>
        `if (row < ${starts[w] + count}u) { ${along([w], starts[w] ? `row - ${starts[w]}u` : 'row')} }`,
    );
    const result = (i: number) => {
      const scale = hasNorm ? ` * inverseSqrt(all[${m * sums + i}] / ${cols}.0 + u.epsilon)` : '';
      const value = (s: number) => `all[${i * sums + s}]${scale}`;
      return isGated
        ? `let gate = ${value(0)}; let v = gate / (1.0 + exp(-gate)) * (${value(1)});`
        : `let v = ${value(0)};`;
    };
    // Weight w has its own rows of y, after those of the weights before it.
    const place = (i: number) =>
      isGated || rows.length === 1
        ? `${i * total}u + row`
        : `${rows
            .slice(1)
            .reduce(
              (at, _, w) =>
                `select(${at}, ${m * starts[w + 1] + i * rows[w + 1]}u + row - ${starts[w + 1]}u, row >= ${starts[w + 1]}u)`,
              `${i * rows[0]}u + row`,
            )}`;
    return {
      name: 'RowProduct',
      outputs: {y: 'f32'},
      inputs: {
        x: 'vec4f',
        norm: (hasNorm ? 'vec4f' : undefined) as ElementType,
        base: (hasBase ? 'f32' : undefined) as ElementType,
        ...weights.buffers,
      },
      uniforms: {...(hasNorm && {epsilon: 'f32' as const}), ...weights.uniforms},
      workgroup: WORKGROUP,
      globals: `
const TEAM = ${team}u;
const K = ${cols / 4}u; // in vectors
${weights.octets()}
var<workgroup> partial: array<array<f32, ${width}>, WORKGROUP>;`,
      body: `
  let member = local % TEAM;
  let row = flatGroup * ${WORKGROUP / team}u + local / TEAM;
  ${weights.prepare}
  ${each((i) => `${times(sums, (s) => `var sum${i}${s} = 0.0;`)} var square${i} = 0.0;`)}
  if (row < ${total}u) {
    ${isGated ? along([0, 1], 'row') : chosen.join(' else ')}
  }
  ${each((i) => times(sums, (s) => `partial[local][${i * sums + s}] = sum${i}${s};`))}
  ${hasNorm ? each((i) => `partial[local][${m * sums + i}] = square${i};`) : ''}
  workgroupBarrier();
  for (var width = TEAM / 2u; width > 0u; width /= 2u) {
    if (member < width) {
      ${times(width, (i) => `partial[local][${i}] += partial[local + width][${i}];`)}
    }
    workgroupBarrier();
  }
  if (row >= ${total}u) { return; }
  let all = partial[local - member];
  ${each((i) => `if (member == ${i}u) { ${result(i)} let at = ${place(i)}; y[at] = v${hasBase ? ' + base[at]' : ''}; }`)}`,
    };
  },
);
