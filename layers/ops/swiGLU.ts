import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {customGradient} from './customGradient.ts';
import {dispatchWithGradient} from './dispatch.ts';
import {op, type Tensors} from './op.ts';

export const swiGLUOp = op<Tensors<'gate' | 'up'>>('SwiGLU').withGradient({of: ['gate', 'up']});

/**
 * Gated linear unit with a SiLU gate: `gate · sigmoid(gate) · up`. Shazeer 2020.
 *
 * @param gate `[...]` float32
 * @param up same shape as `gate`
 * @returns same shape as `gate`
 */
export function swiGLU(gate: tf.Tensor, up: tf.Tensor): tf.Tensor {
  assertShape('swiGLU up', up, gate.shape);
  const composed = () =>
    customGradient(
      [gate, up],
      () => ({value: gate.mul(tf.sigmoid(gate)).mul(up), saved: [gate, up]}),
      (dy, [savedGate, savedUp]) => {
        const sigmoid = tf.sigmoid(savedGate);
        const silu = savedGate.mul(sigmoid);
        const slope = sigmoid.add(silu.mul(tf.sub(1, sigmoid))); // d silu / d gate
        return [dy.mul(savedUp).mul(slope), dy.mul(silu)];
      },
    );
  return dispatchWithGradient(swiGLUOp, {gate, up}, {}, composed);
}
