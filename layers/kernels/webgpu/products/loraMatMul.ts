import type * as tf from '@tensorflow/tfjs';
import {loraMatMulOp} from '../../../ops/loraMatMul.ts';
import {kernel} from '../../kernel.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {usingWeight} from '../weights/usingWeight.ts';
import {expand, gradientOfFactor, project, transposed} from './lowRank.ts';
import {runMatrixProduct} from './matrixProduct.ts';
import {multiply, splitsOf} from './multiply.ts';
import {isProjected, packAndProject} from './packAndProject.ts';
import type {Product} from './product.ts';

/** `LoRAMatMul` (layers/ops/loraMatMul.ts). Second output: `scaling · x · Aᵀ`, `[N, rank]`, for backward. */
export const loraMatMul = kernel(loraMatMulOp, 'webgpu', ({inputs, attrs, backend}) => {
  const {x, a, b} = inputs;
  const {rows, scaling, isUnread} = attrs;
  if (isUnread) {
    const y = backend.makeTensorInfo([x.shape[0], rows], 'float32');
    return [y, project(backend, x, a, scaling)];
  }
  return usingWeight(backend, inputs, attrs, {rowCount: x.shape[0], transposeWeight: true}, (multiplier) =>
    updatedProduct(backend, {x, ...multiplier}, {a, b, scaling}, true),
  );
});

/** Gradients of `x`, `a` and `b`. */
export const loraMatMulGrad = kernel(loraMatMulOp.gradient, 'webgpu', ({inputs, attrs, backend}) => {
  const {dy, x, a, b, extra0: low} = inputs;
  const use = {rowCount: x.shape[0], transposeWeight: false};
  const {scaling} = attrs;
  const [dx, lowGradient] = usingWeight(backend, inputs, attrs, use, (multiplier) =>
    updatedProduct(backend, {x: dy, ...multiplier}, {a, b, scaling}, false),
  );
  const da = gradientOfFactor(backend, lowGradient, x, false);
  const db = gradientOfFactor(backend, low, dy, true);
  backend.disposeData(lowGradient.dataId);
  return [dx, da, db];
});

/**
 * A product and its low-rank path, in one pass if subgroup matrices multiply: `x · Wᵀ` and `scaling · (x · Aᵀ) · Bᵀ`
 * or, in backward, `x · W` and `scaling · (x · B) · A`.
 *
 * @returns the sum `[m, n]`, and the path's narrow side with the scaling, `[m, rank]`
 */
function updatedProduct(
  backend: WebGPUBackend,
  product: Product,
  {a, b, scaling}: {a: tf.TensorInfo; b: tf.TensorInfo; scaling: number},
  isForward: boolean,
): [tf.TensorInfo, tf.TensorInfo] {
  const {x} = product;
  if (splitsOf(backend, product) === 1 && isProjected(a.shape[0])) {
    const down = isForward ? a : transposed(backend, b); // [rank, k]
    const {low, ...packed} = packAndProject(backend, x, down, scaling);
    if (!isForward) backend.disposeData(down.dataId);
    const y = backend.makeTensorInfo([x.shape[0], isForward ? b.shape[0] : a.shape[1]], 'float32');
    const update = {low, factor: isForward ? b : a, isTransposed: isForward};
    runMatrixProduct(backend, product, {y, kind: 'float32'}, packed, {update});
    for (const {dataId} of [packed.halves, packed.scales]) backend.disposeData(dataId);
    return [y, low];
  }
  const wideB = transposed(backend, b); // [rank, units]
  const low = project(backend, x, isForward ? a : wideB, scaling);
  const base = multiply(backend, product);
  const y = expand(backend, low, isForward ? wideB : a, base);
  for (const {dataId} of [wideB, base]) backend.disposeData(dataId);
  return [y, low];
}
