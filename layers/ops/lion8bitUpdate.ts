import type * as tf from '@tensorflow/tfjs';
import {
  assertBlockwise8bit,
  type Blockwise8bit,
  fromBlockwise8bit,
  toBlockwise8bit,
} from './blockwise8bit.ts';
import {dispatch} from './dispatch.ts';
import {type LionSettings, lionUpdate} from './lionUpdate.ts';
import {op, type Tensors} from './op.ts';

/** Returns the next value, and the codes and absmax of the next momentum. */
export const lion8bitUpdateOp = op<
  Tensors<'value' | 'gradient' | 'momentumCodes' | 'momentumAbsmax'>,
  LionSettings,
  tf.Tensor[]
>('Lion8bitUpdate');

/**
 * One Lion update whose momentum is stored in 8 bits, as bitsandbytes' `Lion8bit` does it on the CPU: the momentum is
 * dequantized from the signed dynamic map, updated as in {@link lionUpdate}, and quantized again.
 *
 * @param value the weight, float32
 * @param gradient its gradient, of the same shape
 * @returns the next value and momentum
 * @throws TfjsLoraError `SHAPE_MISMATCH` when the momentum does not fit the value; `NON_FINITE`, on backends with a
 *   kernel of this name, when the momentum would not be finite
 */
export function lion8bitUpdate(
  value: tf.Tensor,
  gradient: tf.Tensor,
  momentum: Blockwise8bit,
  settings: LionSettings,
): [value: tf.Tensor, momentum: Blockwise8bit] {
  assertBlockwise8bit('lion8bitUpdate momentum', momentum, value.size);
  const inputs = {value, gradient, momentumCodes: momentum.codes, momentumAbsmax: momentum.absmax};
  const [nextValue, codes, absmax] = dispatch(lion8bitUpdateOp, inputs, settings, () => {
    const dequantized = fromBlockwise8bit(momentum, true, value.shape);
    const [next, nextMomentum] = lionUpdate(value, gradient, dequantized, settings);
    const {codes, absmax} = toBlockwise8bit(nextMomentum, true);
    return [next, codes, absmax];
  });
  return [nextValue, {codes, absmax}];
}
