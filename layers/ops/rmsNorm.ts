import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {dispatchWithGradient, hasKernel} from './dispatch.ts';
import {isRecording} from './isRecording.ts';
import {op, type Tensors} from './op.ts';

export const rmsNormOp = op<Tensors<'x' | 'weight'>, {epsilon: number}>('RMSNorm').withGradient({of: ['x']});

/** `RMSNorm` of rows that are not needed again: the result takes their memory, and a smaller copy of them is kept. */
export const rmsNormOverOp = op<Tensors<'x' | 'weight'>, {epsilon: number}>('RMSNormOver').withGradient({
  of: ['x'],
  read: ['weight'],
});

/**
 * Root-mean-square normalisation over the last axis: `x / sqrt(mean(x²) + epsilon) * (weight + offset)`.
 * Zhang & Sennrich 2019, as in Hugging Face's LlamaRMSNorm; with `offset` 1 as in its Gemma2RMSNorm.
 *
 * @param x `[..., C]` float32
 * @param weight `[C]` float32
 * @param isSpent whether `x` is not needed again, so that a kernel may overwrite it
 * @returns same shape as `x`
 * @throws TfjsLoraError `SHAPE_MISMATCH` when `weight` is not `[C]`
 */
export function rmsNorm(
  x: tf.Tensor,
  weight: tf.Tensor,
  epsilon = 1e-5,
  offset = 0,
  isSpent = false,
): tf.Tensor {
  assertShape('rmsNorm weight', weight, [x.shape.at(-1) as number]);
  const factor = () => (offset === 0 ? weight : tf.add(weight, offset));
  const composed = () => {
    const inverseRms = x.square().mean(-1, true).add(epsilon).rsqrt();
    return x.mul(inverseRms).mul(factor());
  };
  const isFrozen = weight instanceof tf.Variable && !weight.trainable;
  if (!isFrozen && isRecording()) return tf.tidy(composed); // the gradient kernel computes none for the weight
  const isOver = isSpent && offset === 0 && isRecording() && weight.size % 4 === 0;
  if (isOver && hasKernel(rmsNormOverOp))
    return dispatchWithGradient(rmsNormOverOp, {x, weight}, {epsilon}, composed);
  if (offset === 0) return dispatchWithGradient(rmsNormOp, {x, weight}, {epsilon}, composed);
  return tf.tidy(() => dispatchWithGradient(rmsNormOp, {x, weight: factor()}, {epsilon}, composed));
}
