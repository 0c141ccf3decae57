import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {customGradient} from './customGradient.ts';

/**
 * Returns `−log softmax(logits)[label]` of each row; 0 for rows labelled `ignoreIndex`.
 *
 * @param logits `[N, vocab]` float32
 * @param labels `[N]` int32, each `ignoreIndex` or in `[0, vocab)`
 * @returns `[N]`
 */
export function tokenLosses(logits: tf.Tensor2D, labels: tf.Tensor1D, ignoreIndex = -100): tf.Tensor1D {
  const [rows, vocab] = logits.shape;
  assertShape('crossEntropy labels', labels, [rows]);
  return customGradient(
    [logits],
    () => {
      const positions = tf.add(tf.mul(tf.range(0, rows, 1, 'int32'), vocab), target(labels)).toInt();
      const picked = tf.gather(logits.flatten(), positions); // [N]
      const value = tf.mul(tf.sub(tf.logSumExp(logits, 1), picked), counted(labels, ignoreIndex));
      return {value: value as tf.Tensor1D, saved: [logits, labels]};
    },
    (dy, [savedLogits, savedLabels]) => {
      const difference = tf.sub(tf.softmax(savedLogits), tf.oneHot(target(savedLabels), vocab));
      return [tf.mul(difference, tf.mul(counted(savedLabels, ignoreIndex), dy).expandDims(1))];
    },
  );
}

/**
 * Returns the sum over rows of `−log softmax(logits)[label]`, without the rows labelled `ignoreIndex`; not the mean.
 *
 * @param logits `[N, vocab]` float32
 * @param labels `[N]` int32, each `ignoreIndex` or in `[0, vocab)`
 */
export function crossEntropy(logits: tf.Tensor2D, labels: tf.Tensor1D, ignoreIndex = -100): tf.Scalar {
  return tf.tidy(() => tf.sum(tokenLosses(logits, labels, ignoreIndex)) as tf.Scalar);
}

/** 1 for a row that counts, 0 for one that does not. */
const counted = (labels: tf.Tensor, ignoreIndex: number) => tf.notEqual(labels, ignoreIndex).toFloat();

/** Labels that are safe as indices: an ignored row may pick anything. */
const target = (labels: tf.Tensor) => tf.maximum(labels, 0).toInt();
