import * as tf from '@tensorflow/tfjs';
import type {StoredMatrix} from '../../../layers/ops/storedMatrix.ts';
import {unpackMatrix} from '../../../layers/ops/unpackMatrix.ts';
import type {DenseValues} from '../denseValues.ts';
import {leastLeftVectors, truncatedSvd} from '../truncatedSvd.ts';
import type {InitialValues} from './initializations.ts';

/** Settings of CorDA, as PEFT's `CordaConfig`. */
export interface CordaConfig {
  /**
   * `ipm` trains the directions that matter most for the batches, to learn their task; `kpm` trains those that matter
   * least, to preserve the knowledge that the batches show. Default `ipm`.
   */
  cordaMethod?: 'ipm' | 'kpm';
}
export const CORDA_DEFAULTS = {cordaMethod: 'ipm'} satisfies Required<CordaConfig>;

/** Share of the mean variance that is added to the covariance's diagonal. */
const DAMPING = 0.01;

/** Returns the weight times the damped covariance of its inputs, `[units, inputDim]`. */
export function oriented(weight: StoredMatrix, covariance: tf.Tensor2D): tf.Tensor2D {
  return tf.tidy(() => {
    const [size] = covariance.shape;
    const diagonal = tf.mul(tf.eye(size), covariance);
    const damping = tf.mul(tf.div(tf.sum(diagonal), size), DAMPING);
    return tf.matMul(unpackMatrix(weight), tf.add<tf.Tensor2D>(covariance, tf.mul(tf.eye(size), damping)));
  });
}

/**
 * The adapter gets the part of the weight in the directions that its inputs' covariance makes most or least important,
 * and the base the rest. Yang et al. 2024, as PEFT's `corda_init`.
 *
 * With the decomposition `W · C = U · S · Vᵀ`, PEFT's `Vᵀ · C⁻¹` is `S⁻¹ · Uᵀ · W`, which needs no inverse.
 *
 * @param product `W · C`
 */
export function corda(
  {rows, cols, values}: DenseValues,
  product: DenseValues,
  {rank, scaling}: {rank: number; scaling: number},
  {cordaMethod}: Required<CordaConfig>,
): InitialValues {
  const {u, s} = cordaMethod === 'ipm' ? truncatedSvd(product, rank) : leastLeftVectors(product, rank);
  const a = new Float32Array(rank * cols);
  const b = new Float32Array(rows * rank);
  for (let k = 0; k < rank; k++) {
    const root = Math.sqrt(s[k] / scaling);
    const sums = new Float64Array(cols);
    for (let row = 0; row < rows; row++) {
      b[row * rank + k] = root * u[k][row];
      for (let col = 0; col < cols; col++) sums[col] += u[k][row] * values[row * cols + col];
    }
    for (let col = 0; col < cols; col++) a[k * cols + col] = (root / s[k]) * sums[col];
  }
  return {a, b, base: 'residual'};
}
