import type * as tf from '@tensorflow/tfjs';
import type {ProjectionAttributes} from '../../../ops/stackBlock.ts';
import type {StoredTensors} from '../../../ops/storedMatrix.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {expandInto, gradientOfFactor, project, transposed} from '../products/lowRank.ts';
import {fitsFactorGradient, matrixFactorGradient} from '../products/matrixFactorGradient.ts';
import {runMatrixProduct} from '../products/matrixProduct.ts';
import {
  type Factor,
  type FactorPack,
  fitsMatrixProject,
  matrixProject,
  packFactors,
} from '../products/matrixProject.ts';
import {multiplyPacked, splitsOf} from '../products/multiply.ts';
import {isProjected} from '../products/packAndProject.ts';
import type {PackedRows} from '../products/packRows.ts';
import type {Product, Result} from '../products/product.ts';
import type {SharedWeights} from '../weights/sharedWeights.ts';
import {usingWeight} from '../weights/usingWeight.ts';
import type {Multiplier} from '../weights/weightFormat.ts';

/** A linear layer of a stack: its frozen weight and, if it has a rank, `a` and `b` of its low-rank path. */
export interface Projection {
  attributes: ProjectionAttributes;
  tensors: StoredTensors;
  /** Where products of other rows find the weight as it was written for this one. Default: it is written for each. */
  weights?: SharedWeights;
}

/** The gradients of a low-rank path. */
export interface AdapterGradients {
  a: tf.TensorInfo;
  b: tf.TensorInfo;
}

/**
 * Computes `x · Wᵀ + scaling · (x · Aᵀ) · Bᵀ`.
 *
 * @param low `scaling · x · Aᵀ`, if the layer has a low-rank path
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
 * Adds the gradients of a projection's low-rank path to those of other rows.
 *
 * @param low `scaling · x · Aᵀ`; it is disposed
 * @param lowSlope `scaling · dy · B`
 * @param sums gradients of other rows
 */
export function runAdapterGrad(
  backend: WebGPUBackend,
  {x, dy, low, lowSlope}: {x: PackedRows; dy: PackedRows; low: tf.TensorInfo; lowSlope: tf.TensorInfo},
  sums?: AdapterGradients,
): AdapterGradients {
  const gradient = (narrow: tf.TensorInfo, wide: PackedRows, isTransposed: boolean, sum?: tf.TensorInfo) => {
    const compute = fitsFactorGradient(backend, wide, narrow.shape[1])
      ? matrixFactorGradient
      : gradientOfFactor;
    return compute(backend, narrow, wide, isTransposed, sum);
  };
  const a = gradient(lowSlope, x, false, sums?.a);
  const b = gradient(low, dy, true, sums?.b);
  backend.disposeData(low.dataId);
  return {a, b};
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

/** Computes the narrow sides of low-rank paths: `scaling · x · Aᵀ`, or in backward `scaling · dy · B`. */
export class LowRankPaths {
  private readonly packs = new Map<Projection, FactorPack>();
  private readonly packed: tf.TensorInfo[] = [];

  /** @param groups projections of the same rows; see {@link lows} */
  constructor(
    private readonly backend: WebGPUBackend,
    groups: Projection[][],
    private readonly isForward: boolean,
  ) {
    const most = backend.device.limits.maxStorageBuffersPerShaderStage - 2;
    const fitting = groups
      .map((group) => ({group, factors: this.factorsOf(group)}))
      .filter(({factors}) => factors.length > 0 && fitsMatrixProject(backend, factors));
    while (fitting.length > 0) {
      let [count, factors] = [0, 0];
      while (count < fitting.length && factors + fitting[count].factors.length <= most)
        factors += fitting[count++].factors.length;
      const together = fitting.splice(0, count);
      const {packs, tensors} = packFactors(
        backend,
        together.map(({factors}) => factors),
      );
      for (const [i, {group}] of together.entries()) this.packs.set(group[0], packs[i]);
      this.packed.push(...tensors);
    }
  }

  /** Returns the results of a group, which the caller disposes; a layer without a low-rank path has none. */
  lows(x: PackedRows, group: Projection[]): (tf.TensorInfo | undefined)[] {
    const {backend} = this;
    const pack = this.packs.get(group[0]);
    const lows = pack
      ? matrixProject(backend, x, pack)
      : this.factorsOf(group).map((factor) => projectAlone(backend, x, factor));
    return group.map(({attributes: {rank}}) => (rank > 0 ? lows.shift() : undefined));
  }

  dispose(): void {
    for (const {dataId} of this.packed) this.backend.disposeData(dataId);
  }

  private factorsOf(group: Projection[]): Factor[] {
    return group
      .filter(({attributes: {rank}}) => rank > 0)
      .map(({attributes: {scaling}, tensors: {a, b}}) => ({
        tensor: this.isForward ? a : b,
        isTransposed: !this.isForward,
        scale: scaling,
      }));
  }
}

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
  {attributes, tensors, weights}: Projection,
  result: Result,
  isForward: boolean,
): void {
  const {shape, inOctets} = x.halves;
  const use = {rowCount: shape[0], transposeWeight: isForward, inOctets};
  const multiply = (multiplier: Multiplier) => {
    const product: Product = {x: x.halves, ...multiplier};
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
  };
  if (weights) multiply(weights.of(tensors, attributes, use));
  else usingWeight(backend, tensors, attributes, use, multiply);
}
