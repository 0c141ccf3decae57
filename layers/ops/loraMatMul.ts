import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {dispatchWithGradient} from './dispatch.ts';
import {linear} from './linear.ts';
import {loraLinear} from './loraLinear.ts';
import {op, type Tensors} from './op.ts';
import {
  attributesOf,
  type StoredFormat,
  type StoredMatrix,
  type StoredTensors,
  tensorsOf,
} from './storedMatrix.ts';

export const loraMatMulOp = op<
  Tensors<'x' | 'a' | 'b'> & StoredTensors,
  StoredFormat & {scaling: number; isUnread: boolean},
  tf.Tensor2D
>('LoRAMatMul').withGradient({of: ['x', 'a', 'b']});

/**
 * A frozen linear layer with its low-rank path, `x · Wᵀ + scaling · (x · Aᵀ) · Bᵀ`: {@link linear} followed by
 * {@link loraLinear}. A kernel adds the path before it stores the product. Hu et al. 2021.
 *
 * @param x `[N, inputDim]` float32
 * @param weight `[units, inputDim]`, float32, packed 16-bit or quantized; gets no gradient
 * @param a `[rank, inputDim]` float32
 * @param b `[units, rank]` float32
 * @param scaling `alpha / rank`, or `alpha / sqrt(rank)` for rsLoRA
 * @param isUnread whether only the gradients are wanted: a kernel may then skip the value and return any numbers
 * @returns `[N, units]` float32
 * @throws TfjsLoraError `SHAPE_MISMATCH`
 */
export function loraMatMul(
  x: tf.Tensor2D,
  weight: StoredMatrix,
  a: tf.Tensor2D,
  b: tf.Tensor2D,
  scaling: number,
  isUnread = false,
): tf.Tensor2D {
  assertShape('loraMatMul input', x, [-1, weight.cols]);
  assertShape('loraMatMul a', a, [-1, weight.cols]);
  assertShape('loraMatMul b', b, [weight.rows, a.shape[0]]);
  const composed = () => loraLinear(linear(x, weight), x, a, b, scaling);
  if (weight.dtype === 'float32' || weight.dtype === 'hosted') return tf.tidy(composed);
  const inputs = {x, a, b, ...tensorsOf(weight)};
  const attributes = {...attributesOf(weight), scaling, isUnread};
  return dispatchWithGradient(loraMatMulOp, inputs, attributes, composed);
}
