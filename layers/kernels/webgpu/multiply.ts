import type * as tf from '@tensorflow/tfjs';
import {MATRIX_TILE, matrixProduct} from './matrixProduct.ts';
import {packRows} from './packRows.ts';
import {rowProduct} from './rowProduct.ts';
import {runShader} from './runShader.ts';
import {tiledProduct} from './tiledProduct.ts';
import {capabilitiesOf, type WebGPUBackend} from './webgpuBackend.ts';
import type {WeightFormat} from './weightFormat.ts';

export interface Product {
  /** `[m, k]` float32. */
  x: tf.TensorInfo;
  weight: WeightFormat;
  /** Of the stored matrix. */
  rows: number;
  cols: number;
  /** `x · Wᵀ` (k = cols, n = rows) or `x · W` (k = rows, n = cols). */
  transposeWeight: boolean;
}

/** Few rows: a workgroup for each output column beats tiles that are mostly empty. */
const MAX_ROWS_ALONE = 4;

/**
 * A product with a stored weight, by the fastest way the device has: row by row for a few rows; matrices of a whole
 * subgroup; or tiles in float16 or float32.
 */
export function multiply(backend: WebGPUBackend, product: Product): tf.TensorInfo {
  const {x, rows, cols, transposeWeight} = product;
  const [m, k] = x.shape;
  const n = transposeWeight ? rows : cols;
  const y = backend.makeTensorInfo([m, n], 'float32');
  if (m === 0 || n === 0) return y;
  if (m <= MAX_ROWS_ALONE && transposeWeight && k % 4 === 0) {
    runShader(backend, rowProduct(product, y));
    return y;
  }
  const {computeDtype, hasMatrices} = capabilitiesOf(backend);
  if (computeDtype === 'float32' || k % 2 !== 0) {
    runShader(backend, tiledProduct(product, y));
    return y;
  }
  const packed = packRows(backend, x);
  const isAligned = k % 8 === 0 && n % 8 === 0 && m >= MATRIX_TILE / 8;
  const make = hasMatrices && isAligned ? matrixProduct : tiledProduct;
  runShader(backend, make(product, y, packed));
  for (const {dataId} of [packed.halves, packed.scales]) backend.disposeData(dataId);
  return y;
}
