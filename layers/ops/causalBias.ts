import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';

/** Stands for −∞ in scores: finite, so that a fully masked row stays a number. */
const MASKED = -1e9;

/**
 * The attention bias of a causal model.
 *
 * @param length number of queries T; they are the last T of the S positions
 * @param sourceLength number of keys S
 * @param mask `[B, S]` int32: 0 is padding, and a query sees only keys with its own number. So 1 and 0 are
 *   real and padded tokens, and 1, 2, 3 … are sequences packed in one row that cannot see each other.
 * @param window number of positions that a query sees at most: its own and those before it. Default all
 * @returns `[B or 1, 1, T, S]` float32, or undefined when nothing is hidden
 */
export function causalBias(
  length: number,
  sourceLength: number,
  mask?: tf.Tensor2D,
  window = sourceLength,
): tf.Tensor4D | undefined {
  if (mask) assertShape('attention mask', mask, [-1, sourceLength]);
  if (length === 1 && !mask && window >= sourceLength) return undefined;
  return tf.tidy(() => {
    const past = sourceLength - length;
    const queryPositions = tf.range(past, sourceLength, 1, 'int32').expandDims(1); // [T, 1]
    const keyPositions = tf.range(0, sourceLength, 1, 'int32').expandDims(0); // [1, S]
    let visible: tf.Tensor = tf.lessEqual(keyPositions, queryPositions); // [T, S]
    if (window < sourceLength) {
      visible = tf.logicalAnd(visible, tf.greater(keyPositions, tf.sub(queryPositions, window)));
    }
    visible = visible.reshape([1, 1, length, sourceLength]);
    if (mask) {
      const keys = mask.toInt().reshape([-1, 1, 1, sourceLength]);
      const queries = mask.toInt().slice([0, past], [-1, length]).reshape([-1, 1, length, 1]);
      visible = tf.logicalAnd(visible, tf.logicalAnd(tf.equal(queries, keys), tf.notEqual(keys, 0)));
    }
    return tf.mul(tf.sub(1, visible.toFloat()), MASKED) as tf.Tensor4D;
  });
}
