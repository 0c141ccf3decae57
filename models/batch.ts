import type * as tf from '@tensorflow/tfjs';

/**
 * A batch as Hugging Face models take it. Each field is `[B, T]` int32, as rows or as a tensor. Rows are cheaper,
 * because a tensor is read back to find the labels that count. A backend that can only be read asynchronously (webgpu)
 * refuses tensors in the synchronous calls `lossSum` and `targetCount`.
 */
export interface Batch {
  inputIds: tf.Tensor2D | number[][];
  /** Labels, aligned with `inputIds`: each position predicts the *next* position's label. −100 does not count. */
  labels: tf.Tensor2D | number[][];
  /** 1 for a real token, 0 for padding; 1, 2, 3 … for sequences packed into one row. Default: all are real. */
  attentionMask?: tf.Tensor2D | number[][];
  /** Default 0 … T − 1. */
  positionIds?: tf.Tensor2D | number[][];
  /** For answers with a verdict, whether each is desirable. Their rows come before the mismatched ones. */
  desirable?: boolean[];
}
