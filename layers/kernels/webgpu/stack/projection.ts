import type * as tf from '@tensorflow/tfjs';
import type {ProjectionAttributes} from '../../../ops/stackBlock.ts';
import type {StoredTensors} from '../../../ops/storedMatrix.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {expandInto, gradientOfFactor, project, transposed} from '../products/lowRank.ts';
import {fitsFactorGradient, matrixFactorGradient} from '../products/matrixFactorGradient.ts';
import {runMatrixProduct} from '../products/matrixProduct.ts';
import {type Factor, fitsMatrixProject, matrixProject} from '../products/matrixProject.ts';
import {multiplyPacked, splitsOf} from '../products/multiply.ts';
import {isProjected} from '../products/packAndProject.ts';
import type {PackedRows} from '../products/packRows.ts';
import type {Product, Result} from '../products/product.ts';
import {usingWeight} from '../weights/usingWeight.ts';

/** A linear layer of a stack: its frozen weight and, if it has a rank, `a` and `b` of its low-rank path. */
export interface Projection {
  attributes: ProjectionAttributes;
  tensors: StoredTensors;
}

/** The gradients of a low-rank path. */
export interface AdapterGradients {
  a: tf.TensorInfo;
  b: tf.TensorInfo;
}

/**
 * Computes `x · Wᵀ + scaling · (x · Aᵀ) · Bᵀ`.
 *
 * @param low what {@link projectLow} returned for `x`
 */
export function runProjection(
  backend: WebGPUBackend,
  x: PackedRows,
  low: tf.TensorInfo | undefined,
  projection: Projection,
  result: Result,
): void {
  multiplyAdapted(backend, x, low, projection, result, true);
}

/**
 * Adds the gradients of a projection's low-rank path, if it has one, to those of other rows.
 *
 * @param low what {@link projectLow} returned for `x`; it is disposed
 * @param sums gradients of other rows
 * @returns the new sums, and `scaling · dy · B` for {@link runInputGrad}
 */
export function runAdapterGrad(
  backend: WebGPUBackend,
  {x, dy, low}: {x: PackedRows; dy: PackedRows; low: tf.TensorInfo | undefined},
  projection: Projection,
  sums?: AdapterGradients,
): {sums?: AdapterGradients; low?: tf.TensorInfo} {
  const lowGradient = projectLow(backend, dy, projection, false);
  if (!low || !lowGradient) return {};
  const gradient = (narrow: tf.TensorInfo, wide: PackedRows, isTransposed: boolean, sum?: tf.TensorInfo) => {
    const compute = fitsFactorGradient(backend, wide, narrow.shape[1])
      ? matrixFactorGradient
      : gradientOfFactor;
    return compute(backend, narrow, wide, isTransposed, sum);
  };
  const a = gradient(lowGradient, x, false, sums?.a);
  const b = gradient(low, dy, true, sums?.b);
  backend.disposeData(low.dataId);
  return {sums: {a, b}, low: lowGradient};
}

/**
 * Computes the gradient of a projection's input, `dy · W + scaling · (dy · B) · A`, if a result is wanted.
 *
 * @param low `scaling · dy · B`; it is disposed
 */
export function runInputGrad(
  backend: WebGPUBackend,
  dy: PackedRows,
  low: tf.TensorInfo | undefined,
  projection: Projection,
  result: Result | undefined,
): void {
  if (result) multiplyAdapted(backend, dy, low, projection, result, false);
  if (low) backend.disposeData(low.dataId);
}

/**
 * Computes `scaling · x · Aᵀ` for projections of the same `x`, or in backward `scaling · x · B`. The caller disposes the
 * results; a layer without a low-rank path has none.
 */
export function projectLows(
  backend: WebGPUBackend,
  x: PackedRows,
  projections: Projection[],
  isForward = true,
): (tf.TensorInfo | undefined)[] {
  const adapted = projections.filter(({attributes: {rank}}) => rank > 0);
  const factors = adapted.map(
    ({attributes: {scaling}, tensors: {a, b}}): Factor => ({
      tensor: isForward ? a : b,
      isTransposed: !isForward,
      scale: scaling,
    }),
  );
  const lows = fitsMatrixProject(backend, x, factors)
    ? matrixProject(backend, x, factors)
    : factors.map((factor) => projectAlone(backend, x, factor));
  return projections.map((projection) => lows[adapted.indexOf(projection)]);
}

/** {@link projectLows} for one projection. */
export const projectLow = (
  backend: WebGPUBackend,
  x: PackedRows,
  projection: Projection,
  isForward = true,
): tf.TensorInfo | undefined => projectLows(backend, x, [projection], isForward)[0];

function projectAlone(
  backend: WebGPUBackend,
  x: PackedRows,
  {tensor, isTransposed, scale}: Factor,
): tf.TensorInfo {
  const down = isTransposed ? transposed(backend, tensor) : tensor; // [rank, width of x]
  const low = project(backend, x, down, scale);
  if (isTransposed) backend.disposeData(down.dataId);
  return low;
}

/** Computes a projection or its transpose, from `x` and the narrow side of its low-rank path. */
function multiplyAdapted(
  backend: WebGPUBackend,
  x: PackedRows,
  low: tf.TensorInfo | undefined,
  {attributes, tensors}: Projection,
  result: Result,
  isForward: boolean,
): void {
  const {rows, cols} = attributes;
  const [count] = x.halves.shape;
  usingWeight(backend, tensors, attributes, count, (weight) => {
    const product: Product = {x: x.halves, weight, rows, cols, transposeWeight: isForward};
    const {a, b} = tensors;
    if (low && splitsOf(backend, product) === 1 && isProjected(low.shape[1])) {
      const update = {low, factor: isForward ? b : a, isTransposed: isForward};
      runMatrixProduct(backend, product, result, x, {update});
      return;
    }
    multiplyPacked(backend, product, x, result);
    if (!low) return;
    const factor = isForward ? transposed(backend, b) : a; // [rank, width of the result]
    const kind = result.kind === 'halves' ? 'halves' : 'added';
    expandInto(backend, low, factor, {y: result.y, kind}, x.scales);
    if (isForward) backend.disposeData(factor.dataId);
  });
}
