import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {customGradient} from './customGradient.ts';
import {dispatchWithGradient} from './dispatch.ts';
import {op, type Tensors} from './op.ts';

export const rotaryEmbeddingOp = op<Tensors<'x' | 'cos' | 'sin'>, Record<never, never>, tf.Tensor4D>(
  'RotaryEmbedding',
).withGradient({of: ['x'], read: ['cos', 'sin']});

/**
 * Rotary position embedding in the half-split layout of Hugging Face's Llama: element i of a head is rotated together
 * with element i + D/2. Su et al. 2021.
 *
 * @param x `[B, H, T, D]` float32, D even
 * @param cos `[B or 1, 1, T, R/2]` float32, cosine of position × frequency. If R is less than D, the elements from R on
 *   do not change
 * @param sin same shape as `cos`
 * @returns same shape as `x`
 */
export function rotaryEmbedding(x: tf.Tensor4D, cos: tf.Tensor4D, sin: tf.Tensor4D): tf.Tensor4D {
  const rest = x.shape[3] - 2 * cos.shape[3];
  if (rest > 0) {
    return tf.tidy(() => {
      const [turned, same] = tf.split(x, [x.shape[3] - rest, rest], 3) as tf.Tensor4D[];
      return tf.concat([rotaryEmbedding(turned, cos, sin), same], 3);
    });
  }
  assertShape('rotaryEmbedding cos', cos, [-1, 1, x.shape[2], x.shape[3] / 2]);
  assertShape('rotaryEmbedding sin', sin, cos.shape);
  const composed = () =>
    customGradient(
      [x],
      () => ({value: rotate(x, cos, sin), saved: [cos, sin]}),
      (dy, [savedCos, savedSin]) => [rotate(dy, savedCos, tf.neg(savedSin))], // the inverse rotation
    );
  return dispatchWithGradient(rotaryEmbeddingOp, {x, cos, sin}, {}, composed);
}

function rotate(x: tf.Tensor4D, cos: tf.Tensor, sin: tf.Tensor): tf.Tensor4D {
  const [first, second] = tf.split(x, 2, 3);
  return tf.concat(
    [tf.sub(tf.mul(first, cos), tf.mul(second, sin)), tf.add(tf.mul(second, cos), tf.mul(first, sin))],
    3,
  ) as tf.Tensor4D;
}
