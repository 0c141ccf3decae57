import type * as tf from '@tensorflow/tfjs';
import {type AdamWSettings, adamWUpdate} from './adamWUpdate.ts';
import {
  assertBlockwise8bit,
  type Blockwise8bit,
  fromBlockwise8bit,
  toBlockwise8bit,
} from './blockwise8bit.ts';
import {dispatch} from './dispatch.ts';
import {op, type Tensors} from './op.ts';

/** Returns the next value, and the codes and absmax of the next mean and of the next variance. */
export const adamW8bitUpdateOp = op<
  Tensors<'value' | 'gradient' | 'meanCodes' | 'meanAbsmax' | 'varianceCodes' | 'varianceAbsmax'>,
  AdamWSettings,
  tf.Tensor[]
>('AdamW8bitUpdate');

/**
 * One AdamW update whose running means are stored in 8 bits, Dettmers et al. 2022, as bitsandbytes' `AdamW8bit` does it
 * on the CPU: both means are dequantized, updated as in {@link adamWUpdate}, used for the weight, and quantized again.
 * The mean uses the signed dynamic map, the variance the unsigned one.
 *
 * @param value the weight, float32
 * @param gradient its gradient, of the same shape
 * @param mean running mean of the gradient
 * @param variance running mean of its square
 * @returns the next value, mean and variance
 * @throws TfjsLoraError `SHAPE_MISMATCH` when a state does not fit the value; `NON_FINITE`, on backends with a kernel
 *   of this name, when a state would not be finite
 */
export function adamW8bitUpdate(
  value: tf.Tensor,
  gradient: tf.Tensor,
  mean: Blockwise8bit,
  variance: Blockwise8bit,
  settings: AdamWSettings,
): [value: tf.Tensor, mean: Blockwise8bit, variance: Blockwise8bit] {
  assertBlockwise8bit('adamW8bitUpdate mean', mean, value.size);
  assertBlockwise8bit('adamW8bitUpdate variance', variance, value.size);
  const inputs = {
    value,
    gradient,
    meanCodes: mean.codes,
    meanAbsmax: mean.absmax,
    varianceCodes: variance.codes,
    varianceAbsmax: variance.absmax,
  };
  const [nextValue, meanCodes, meanAbsmax, varianceCodes, varianceAbsmax] = dispatch(
    adamW8bitUpdateOp,
    inputs,
    settings,
    () => {
      const {shape} = value;
      const [next, ...states] = adamWUpdate(
        value,
        gradient,
        fromBlockwise8bit(mean, true, shape),
        fromBlockwise8bit(variance, false, shape),
        settings,
      );
      const nextMean = toBlockwise8bit(states[0], true);
      const nextVariance = toBlockwise8bit(states[1], false);
      return [next, nextMean.codes, nextMean.absmax, nextVariance.codes, nextVariance.absmax];
    },
  );
  return [nextValue, {codes: meanCodes, absmax: meanAbsmax}, {codes: varianceCodes, absmax: varianceAbsmax}];
}
