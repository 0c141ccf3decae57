import type * as tf from '@tensorflow/tfjs';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {capabilitiesOf, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {runMatrixProduct, TILING} from './matrixProduct.ts';
import {packRows} from './packRows.ts';
import type {Product} from './product.ts';
import {runRowProduct} from './rowProduct.ts';
import {runTiledProduct} from './tiledProduct.ts';

/** For so few rows, a workgroup for each output column beats tiles that are mostly empty. */
const MAX_ROWS_ALONE = 4;

/** With fewer tiles than this a card is not busy, so the inner side is split, down to {@link MIN_PART}. */
const BUSY_TILES = 528;
const MIN_PART = 2048;

/**
 * Computes a product with a stored weight in the fastest way that the device has: row by row for a few rows, with
 * subgroup matrices, or in tiles of float16 or float32.
 */
export function multiply(backend: WebGPUBackend, product: Product): tf.TensorInfo {
  const {x, rows, cols, transposeWeight} = product;
  const [m, k] = x.shape;
  const n = transposeWeight ? rows : cols;
  const y = backend.makeTensorInfo([m, n], 'float32');
  if (m === 0 || n === 0) return y;
  if (m <= MAX_ROWS_ALONE && transposeWeight && k % 4 === 0) {
    runRowProduct(backend, product, y);
    return y;
  }
  const {computeDtype} = capabilitiesOf(backend);
  if (computeDtype === 'float32' || k % 2 !== 0) {
    runTiledProduct(backend, product, y);
    return y;
  }
  const packed = packRows(backend, x);
  const splits = splitsOf(backend, product);
  if (splits === 0) runTiledProduct(backend, product, y, packed);
  else if (splits === 1) runMatrixProduct(backend, product, y, packed);
  else {
    const parts = backend.makeTensorInfo([splits, m, n], 'float32');
    runMatrixProduct(backend, product, parts, packed, {splits});
    addParts(backend, parts, y);
    backend.disposeData(parts.dataId);
  }
  for (const {dataId} of [packed.halves, packed.scales]) backend.disposeData(dataId);
  return y;
}

/** Returns into how many parts of k the subgroup matrices split the product; 0 if they cannot compute it. */
export function splitsOf(backend: WebGPUBackend, {x, rows, cols, transposeWeight}: Product): number {
  const {computeDtype, hasMatrices} = capabilitiesOf(backend);
  const [m, k] = x.shape;
  const n = transposeWeight ? rows : cols;
  const isAligned = k % 8 === 0 && n % 8 === 0 && m >= TILING.rows / 8;
  if (computeDtype === 'float32' || !hasMatrices || !isAligned) return 0;
  const tiles = Math.ceil(m / TILING.rows) * Math.ceil(n / TILING.cols);
  return Math.max(1, Math.min(Math.floor(BUSY_TILES / tiles), Math.floor(k / MIN_PART)));
}

/** Computes `y = Σ parts` over the first axis. */
function addParts(backend: WebGPUBackend, parts: tf.TensorInfo, y: tf.TensorInfo): void {
  const [splits, m, n] = parts.shape; // n is a multiple of 8
  const count = (m * n) / 4;
  runShader(backend, {shader: sumOfParts(), buffers: {y, parts}, uniforms: {splits, count}, threads: count});
}

const sumOfParts = shader(() => ({
  name: 'AddParts',
  outputs: {y: 'vec4f'},
  inputs: {parts: 'vec4f'},
  uniforms: {splits: 'u32', count: 'u32'},
  workgroup: 256,
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i >= u.count) { return; }
  var sum = vec4f(0.0);
  for (var s = 0u; s < u.splits; s++) { sum += parts[s * u.count + i]; }
  y[i] = sum;`,
}));
