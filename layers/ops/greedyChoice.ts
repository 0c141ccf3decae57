import * as tf from '@tensorflow/tfjs';
import {dispatch} from './dispatch.ts';
import {op, type Tensors} from './op.ts';

export const greedyChoiceOp = op<Tensors<'logits'>, Record<never, never>, tf.Tensor1D>('GreedyChoice');

/**
 * Returns the index of each row's largest logit, the first of equals; if a logit is not finite, `−1 − i`, where i is
 * the index of the first such logit. So greedy generation reads one number per row.
 *
 * @param logits `[B, vocab]` float32
 * @returns `[B]` int32
 */
export function greedyChoice(logits: tf.Tensor2D): tf.Tensor1D {
  return dispatch(greedyChoiceOp, {logits}, {}, () => {
    const vocab = logits.shape[1];
    const places = tf.range(0, vocab).expandDims(0); // on some backends argMax takes the last of equals
    const first = (mask: tf.Tensor) =>
      tf.min(tf.add(places, tf.mul(tf.logicalNot(mask).toFloat(), vocab)), 1); // [B]
    const wrong = first(tf.notEqual(tf.sub(logits, logits), 0)); // ∞ − ∞ is NaN
    const largest = first(tf.equal(logits, tf.max(logits, 1, true)));
    return tf.where(tf.less(wrong, vocab), tf.sub(-1, wrong), largest).toInt() as tf.Tensor1D;
  });
}
