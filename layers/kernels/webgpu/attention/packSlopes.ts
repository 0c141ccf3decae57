import type * as tf from '@tensorflow/tfjs';
import {HALVES} from '../device/halves.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {quadAt} from '../device/octets.ts';
import type {RowsView} from '../device/rowsView.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import type {PackedRows} from '../products/packRows.ts';

/**
 * The gradient of attention's result as float16, each row scaled by a power of two so that its largest value is between
 * 1 and 2.
 */
export interface PackedSlopes {
  /** int32 `[B·H·T, dim / 2]`. */
  halves: tf.TensorInfo;
  /** Factors that restore the rows' values, `[B·H·T]`. */
  scales: tf.TensorInfo;
  /**
   * What the weights' gradients need of each row, `[B·H·T, 2]`: the logarithm to base 2 of its sum of exponentials over
   * its scale, and Σ dy · y over its scale.
   */
  rowTerms: tf.TensorInfo;
}

/**
 * @param dy `[B, H, T, D]` float32
 * @param y attention's result, `[B, H, T, D]` float32
 * @param logSums natural logarithms of the rows' sums of exponentials, `[B·H·T]`
 */
export function packSlopes(
  backend: WebGPUBackend,
  dy: tf.TensorInfo,
  y: tf.TensorInfo,
  logSums: tf.TensorInfo,
): PackedSlopes {
  const [batch, heads, length, dim] = dy.shape;
  const rows = batch * heads * length;
  const slopes = makeSlopes(backend, rows, dim);
  runShader(backend, {
    shader: scaledSlopes(dim / 4, 0, {dy: false, y: false}),
    buffers: {...slopes, dy, y, logSums, rowScales: undefined},
    uniforms: {rows, heads, length, tokens: batch * length, begin: 0},
    workgroups: Math.ceil(rows / 32),
  });
  return slopes;
}

/** Makes slopes for {@link packSlopesOfRows} to fill. */
export function makeSlopes(backend: WebGPUBackend, rows: number, dim: number): PackedSlopes {
  return {
    halves: makeScratch(backend, [rows, dim / 2], 'int32'),
    scales: backend.makeTensorInfo([rows], 'float32'),
    rowTerms: backend.makeTensorInfo([rows, 2], 'float32'),
  };
}

/**
 * Fills the slopes of the tokens from `begin` on.
 *
 * @param dy `[N, H·D]`, and `y`, float16 `[N, H·D]`: rows of these tokens, each row by row or in octets
 * @param logSums as in {@link packSlopes}, of all tokens
 */
export function packSlopesOfRows(
  backend: WebGPUBackend,
  slopes: PackedSlopes,
  {dy, y, logSums}: {dy: Required<PackedRows>; y: RowsView; logSums: tf.TensorInfo},
  {heads, length, headDim}: {heads: number; length: number; headDim: number},
  begin: number,
): void {
  const [tokens] = y.shape;
  const areOctets = {dy: dy.halves.inOctets ?? false, y: y.inOctets ?? false};
  runShader(backend, {
    shader: scaledSlopes(headDim / 4, (heads * headDim) / 4, areOctets),
    buffers: {...slopes, dy: dy.halves, y, logSums, rowScales: dy.scales},
    uniforms: {rows: tokens * heads, heads, length, tokens, begin},
    workgroups: Math.ceil((tokens * heads) / 32),
  });
}

/** @param quads of a row `[H·D]`; 0 if numbers are stored by head */
const scaledSlopes = shader((vectors: number, quads: number, areOctets: Record<'dy' | 'y', boolean>) => {
  const areRows = quads > 0;
  const vector = (x: 'dy' | 'y') =>
    areRows
      ? `widened(${x}[${quadAt('token', `head * ${vectors}u + c`, quads, areOctets[x])}])`
      : `${x}[row * ${vectors}u + c]`;
  const slope = `${areRows ? 'given * ' : ''}${vector('dy')}`;
  return {
    name: 'PackSlopes',
    outputs: {halves: 'vec2u', scales: 'f32', rowTerms: 'vec2f'},
    inputs: {
      dy: areRows ? 'vec2u' : 'vec4f',
      y: areRows ? 'vec2u' : 'vec4f',
      logSums: 'f32',
      rowScales: areRows ? 'f32' : undefined,
    },
    uniforms: {rows: 'u32', heads: 'u32', length: 'u32', tokens: 'u32', begin: 'u32'},
    workgroup: 128,
    header: `
enable f16;
enable subgroups;`,
    globals: areRows ? HALVES : '',
    body: `
  let i = min(flatGroup * 32u + local / 4u, u.rows - 1u); // four lanes share a row
  ${
    areRows
      ? `let head = i / u.tokens;
  let token = i % u.tokens; // among those of dy
  let t = u.begin + token;
  let row = (t / u.length * u.heads + head) * u.length + t % u.length;
  let given = rowScales[token];`
      : 'let row = i;'
  }
  var largest = vec4f(0.0);
  var product = 0.0;
  for (var c = local % 4u; c < ${vectors}u; c += 4u) {
    let slope = ${slope};
    largest = max(largest, abs(slope));
    product += dot(slope, ${vector('y')});
  }
  var top = max(max(largest.x, largest.y), max(largest.z, largest.w));
  top = max(top, subgroupShuffleXor(top, 1u));
  top = max(top, subgroupShuffleXor(top, 2u));
  product += subgroupShuffleXor(product, 1u);
  product += subgroupShuffleXor(product, 2u);
  let exponent = i32(bitcast<u32>(top) >> 23u) - 127;
  let shift = select(-exponent, 0, exponent < -119 || exponent > 126);
  let factor = bitcast<f32>(u32(shift + 127) << 23u);
  if (local % 4u == 0u) {
    let scale = select(bitcast<f32>(u32(127 - shift) << 23u), 0.0, top == 0.0);
    scales[row] = scale;
    rowTerms[row] = vec2f(logSums[row] * ${Math.LOG2E} - log2(scale), product * factor);
  }
  for (var c = local % 4u; c < ${vectors}u; c += 4u) {
    halves[row * ${vectors}u + c] = bitcast<vec2u>(vec4<f16>(${slope} * factor));
  }`,
  };
});

/** Computes the largest of some numbers that are at least 0, `[1]`. */
export function largestOf(backend: WebGPUBackend, values: tf.TensorInfo): tf.TensorInfo {
  const largest = backend.makeTensorInfo([1], 'float32');
  const threads = backend.device.limits.maxComputeInvocationsPerWorkgroup >= 1024 ? 1024 : 256;
  runShader(backend, {
    shader: maximum(threads),
    buffers: {largest, values},
    uniforms: {count: values.shape[0]},
  });
  return largest;
}

const maximum = shader((threads: number) => ({
  name: 'LargestScale',
  outputs: {largest: 'f32'},
  inputs: {values: 'f32'},
  uniforms: {count: 'u32'},
  workgroup: threads,
  globals: `
var<workgroup> maxima: array<f32, WORKGROUP>;`,
  body: `
  var top = 0.0;
  for (var i = local; i < u.count; i += ${4 * threads}u) { // four reads in flight
    let last = u.count - 1u;
    let a = max(values[i], values[min(i + ${threads}u, last)]);
    top = max(top, max(a, max(values[min(i + ${2 * threads}u, last)], values[min(i + ${3 * threads}u, last)])));
  }
  maxima[local] = top;
  workgroupBarrier();
  for (var width = WORKGROUP / 2u; width > 0u; width /= 2u) {
    if (local < width) { maxima[local] = max(maxima[local], maxima[local + width]); }
    workgroupBarrier();
  }
  if (local == 0u) { largest[0] = maxima[0]; }`,
}));
