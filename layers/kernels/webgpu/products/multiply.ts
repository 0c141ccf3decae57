import type * as tf from '@tensorflow/tfjs';
import {HALVES, HALVES_HEADER} from '../device/halves.ts';
import {makeScratch} from '../device/makeScratch.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import {capabilitiesOf, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {runBatchProduct, usesBatchProducts} from './batchProduct.ts';
import {runMatrixProduct, TILING} from './matrixProduct.ts';
import {type PackedRows, packRows} from './packRows.ts';
import {
  type Product,
  type Result,
  type ResultFormat,
  resultFormat,
  resultType,
  sidesOf,
  storeQuad,
} from './product.ts';
import {runRowProduct} from './rowProduct.ts';
import {runTiledProduct} from './tiledProduct.ts';

/** For so few rows, a workgroup for each output column beats tiles that are mostly empty. */
const MAX_ROWS_ALONE = 4;

/** With fewer tiles than this a card is not busy, so the inner side is split, down to parts of this size. */
const BUSY_TILES = 528;
const MIN_PART = 2048;
/** So few rows, as in generation, have so few tiles that shorter parts pay. */
const FEW_ROWS = 64;
const SHORT_PART = 512;

/**
 * Computes a product with a stored weight in the fastest way that the device has: row by row of the weight for a few
 * rows, with subgroup matrices, or in tiles of float16 or float32.
 */
export function multiply(backend: WebGPUBackend, product: Product): tf.TensorInfo {
  const {x, transposeWeight} = product;
  const {m, k, n} = sidesOf(product);
  const y = backend.makeTensorInfo([m, n], 'float32');
  if (m === 0 || n === 0) return y;
  if (m <= MAX_ROWS_ALONE && transposeWeight && k % 4 === 0) {
    runRowProduct(backend, product, y);
    return y;
  }
  if (usesBatchProducts(backend, m) && transposeWeight && k % 8 === 0) {
    runBatchProduct(backend, product, y);
    return y;
  }
  const {computeDtype} = capabilitiesOf(backend);
  if (computeDtype === 'float32' || k % 2 !== 0) {
    runTiledProduct(backend, product, {y, kind: 'float32'});
    return y;
  }
  const packed = packRows(backend, x);
  multiplyPacked(backend, product, packed, {y, kind: 'float32'});
  for (const {dataId} of [packed.halves, packed.scales]) backend.disposeData(dataId);
  return y;
}

/** Computes a product of packed rows, whose number of columns must be even. */
export function multiplyPacked(
  backend: WebGPUBackend,
  product: Product,
  packed: PackedRows,
  result: Result,
): void {
  const splits = splitsOf(backend, product);
  if (splits === 0) runTiledProduct(backend, product, result, packed);
  else if (splits === 1) runMatrixProduct(backend, product, result, packed);
  else {
    const {m, n} = sidesOf(product);
    const y = makeScratch(backend, [splits, m, n]);
    runMatrixProduct(backend, product, {y, kind: 'float32'}, packed, {splits});
    addParts(backend, y, packed, result);
    backend.disposeData(y.dataId);
  }
}

/** Returns into how many parts of k the subgroup matrices split the product; 0 if they cannot compute it. */
export function splitsOf(backend: WebGPUBackend, product: Product): number {
  const {computeDtype, hasMatrices} = capabilitiesOf(backend);
  const {m, k, n} = sidesOf(product);
  const isAligned = k % 8 === 0 && n % 8 === 0 && (m >= TILING.rows / 8 || product.x.inOctets === true);
  if (computeDtype === 'float32' || !hasMatrices || !isAligned) return 0;
  const tiles = Math.ceil(m / TILING.rows) * Math.ceil(n / TILING.cols);
  const part = m <= FEW_ROWS ? SHORT_PART : MIN_PART;
  return Math.max(1, Math.min(Math.floor(BUSY_TILES / tiles), Math.floor(k / part)));
}

/** Adds up `parts` over the first axis. */
function addParts(backend: WebGPUBackend, parts: tf.TensorInfo, {scales}: PackedRows, result: Result): void {
  const {y, kind} = result;
  const [splits, m, n] = parts.shape; // n is a multiple of 8
  const count = (m * n) / 4;
  const isScaled = kind === 'halves' && scales !== undefined;
  runShader(backend, {
    shader: sumOfParts(n / 4, resultFormat(result), isScaled),
    buffers: {y, parts, scales: isScaled ? scales : undefined},
    uniforms: {splits, count},
    threads: count,
  });
}

const sumOfParts = shader((quads: number, format: ResultFormat, isScaled: boolean) => ({
  name: 'AddParts',
  outputs: {y: resultType(format.kind)},
  inputs: {parts: 'vec4f', scales: isScaled ? 'f32' : undefined},
  uniforms: {splits: 'u32', count: 'u32'},
  workgroup: 256,
  header: format.kind === 'halves' ? HALVES_HEADER : '',
  globals: format.kind === 'halves' ? HALVES : '',
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i >= u.count) { return; }
  var sum = vec4f(0.0);
  for (var s = 0u; s < u.splits; s++) { sum += parts[s * u.count + i]; }
  ${isScaled ? `sum /= scales[i / ${quads}u];` : ''}
  ${storeQuad(format, `i / ${quads}u`, `i % ${quads}u`, quads, 'sum')}`,
}));
