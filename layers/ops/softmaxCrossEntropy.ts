import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {dispatch} from './dispatch.ts';
import {op, type Tensors} from './op.ts';

export const softmaxCrossEntropyOp = op<
  Tensors<'logits' | 'labels'>,
  {ignoreIndex: number},
  [losses: tf.Tensor1D, gradient: tf.Tensor2D]
>('SoftmaxCrossEntropy');

/**
 * Computes the cross-entropy of each row and its gradient with respect to the logits in one pass:
 * `−log softmax(logits)[label]` and `softmax(logits) − onehot(label)`; both zero for a row labelled `ignoreIndex`. Not
 * differentiable.
 *
 * @param logits `[N, vocab]` float32
 * @param labels `[N]` int32, each `ignoreIndex` or in `[0, vocab)`
 * @returns losses `[N]` and gradient `[N, vocab]`
 */
export function softmaxCrossEntropy(
  logits: tf.Tensor2D,
  labels: tf.Tensor1D,
  ignoreIndex = -100,
): [losses: tf.Tensor1D, gradient: tf.Tensor2D] {
  const [rows, vocab] = logits.shape;
  assertShape('softmaxCrossEntropy labels', labels, [rows]);
  return dispatch(softmaxCrossEntropyOp, {logits, labels}, {ignoreIndex}, () => {
    const counted = tf.notEqual(labels, ignoreIndex).toFloat(); // [N]
    const onehot = tf.oneHot(tf.maximum(labels, 0).toInt(), vocab).toFloat(); // [N, vocab]
    const losses = tf.sub(tf.logSumExp(logits, 1), tf.sum(tf.mul(logits, onehot), 1)); // [N]
    const gradient = tf.sub(tf.softmax(logits), onehot);
    return [tf.mul(losses, counted), tf.mul(gradient, counted.expandDims(1))] as [tf.Tensor1D, tf.Tensor2D];
  });
}
