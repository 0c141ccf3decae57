import * as tf from '@tensorflow/tfjs';
import {customGradient} from './ops/customGradient.ts';
import {storedMatMul} from './ops/storedMatMul.ts';
import type {StoredMatrix} from './ops/storedMatrix.ts';
import {unpackMatrix} from './ops/unpackMatrix.ts';

/** Returns the norm of each row of a stored matrix, `[rows]`. */
export function rowNorms(weight: StoredMatrix): tf.Tensor1D {
  return tf.tidy(() => tf.sqrt(squaredRowNorms(weight)));
}

function squaredRowNorms(weight: StoredMatrix): tf.Tensor1D {
  return tf.tidy(() => tf.sum(tf.square(unpackMatrix(weight)), 1));
}

/**
 * DoRA's factor per output row: `magnitude / ‖W + scaling · B · A‖`, Liu et al. 2024. As in PEFT, backward treats the
 * norm as a constant, so only `magnitude` gets a gradient.
 *
 * The norm comes from `‖W‖² + 2·scaling·⟨W·Aᵀ, B⟩ + scaling²·⟨B·A·Aᵀ, B⟩` row by row, without forming `B · A`.
 *
 * @param a `[rank, inputDim]`
 * @param b `[units, rank]`
 * @param magnitude `[units]`
 * @returns `[units]`
 */
export function doraScale(
  weight: StoredMatrix,
  a: tf.Tensor2D,
  b: tf.Tensor2D,
  scaling: number,
  magnitude: tf.Tensor,
): tf.Tensor {
  const inverseNorm = () =>
    tf.tidy(() => {
      const cross = tf.sum(tf.mul(storedMatMul(a, weight, true).transpose(), b), 1); // [units]
      const low = tf.sum(tf.mul(tf.matMul(b, tf.matMul(a, a, false, true)), b), 1); // [units]
      const squared = tf.add(
        squaredRowNorms(weight),
        tf.add(tf.mul(cross, 2 * scaling), tf.mul(low, scaling ** 2)),
      );
      return tf.rsqrt(squared);
    });
  return customGradient(
    [magnitude],
    () => {
      const inverse = inverseNorm();
      return {value: tf.mul(magnitude, inverse), saved: [inverse]};
    },
    (dy, [inverse]) => [tf.mul(dy, inverse)],
  );
}
