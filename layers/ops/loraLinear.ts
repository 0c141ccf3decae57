import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {customGradient} from './customGradient.ts';
import {dispatchWithGradient} from './dispatch.ts';
import {op, type Tensors} from './op.ts';

export const loraLinearOp = op<Tensors<'base' | 'x' | 'a' | 'b'>, {scaling: number}, tf.Tensor2D>(
  'LoRALinear',
).withGradient({of: ['base', 'x', 'a', 'b'], read: ['x', 'a', 'b']});

/**
 * Adds a scaled low-rank path to a linear layer's output: `base + scaling · (x · Aᵀ) · Bᵀ`. Hu et al. 2021.
 *
 * Backward keeps only `x` and recomputes `x · Aᵀ`, which is small.
 *
 * @param base `[N, units]` float32, the frozen layer's output
 * @param x `[N, inputDim]` float32
 * @param a `[rank, inputDim]` float32
 * @param b `[units, rank]` float32
 * @param scaling `alpha / rank`, or `alpha / sqrt(rank)` for rsLoRA
 * @returns `[N, units]` float32
 */
export function loraLinear(
  base: tf.Tensor2D,
  x: tf.Tensor2D,
  a: tf.Tensor2D,
  b: tf.Tensor2D,
  scaling: number,
): tf.Tensor2D {
  const [rows, inputDim] = x.shape;
  const [units, rank] = b.shape;
  assertShape('loraLinear base', base, [rows, units]);
  assertShape('loraLinear a', a, [rank, inputDim]);
  return dispatchWithGradient(loraLinearOp, {base, x, a, b}, {scaling}, () => {
    return customGradient(
      [base, x, a, b],
      () => ({value: tf.add(base, tf.matMul(low(x, a, scaling), b, false, true)), saved: [x, a, b]}),
      (dy, saved) => {
        const [savedX, savedA, savedB] = saved as tf.Tensor2D[];
        const lowGradient = tf.mul(tf.matMul(dy, savedB), scaling) as tf.Tensor2D; // [N, rank]
        return [
          dy.clone(),
          tf.matMul(lowGradient, savedA),
          tf.matMul(lowGradient, savedX, true, false),
          tf.matMul(dy, low(savedX, savedA, scaling), true, false),
        ];
      },
    );
  });
}

/** Returns `scaling · x · Aᵀ`, `[N, rank]`. */
function low(x: tf.Tensor2D, a: tf.Tensor2D, scaling: number): tf.Tensor2D {
  return tf.mul(tf.matMul(x, a, false, true), scaling);
}
