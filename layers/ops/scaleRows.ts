import * as tf from '@tensorflow/tfjs';
import {dispatch} from './dispatch.ts';
import {op, type Tensors} from './op.ts';

/** Returns the scaled rows. A kernel may overwrite `x` with them if that is spent. */
export const scaleRowsOp = op<Tensors<'x' | 'factors'>, {isSpent: boolean}>('ScaleRows');

/**
 * Multiplies each row by its own factor, or all rows by one.
 *
 * @param x `[N, C]` float32
 * @param factors `[N]` or a scalar, float32
 * @param isSpent whether `x` is not needed again, so that a kernel may overwrite it
 * @returns `[N, C]`
 */
export function scaleRows(x: tf.Tensor, factors: tf.Tensor, isSpent = false): tf.Tensor {
  const composed = () => tf.mul(x, factors.rank === 0 ? factors : factors.expandDims(1));
  return dispatch(scaleRowsOp, {x, factors}, {isSpent}, composed);
}
