import * as tf from '@tensorflow/tfjs';
import type {HalfDtype} from '../../quant/float16.ts';

/** Bits of the significand, and the exponent of the smallest number that has them all. */
const FORMATS: Record<HalfDtype, {bits: number; lowest: number}> = {
  bfloat16: {bits: 8, lowest: -126},
  float16: {bits: 11, lowest: -14},
};
const HIGHEST_EXPONENT = 127;

/**
 * Rounds float32 to the nearest number of a 16-bit type, ties to even; numbers beyond float16's largest become
 * infinite. Composed of TensorFlow.js's own ops; dequantizing kernels round while they read. Not differentiable.
 *
 * Adding 1.5 · 2²³ times the step between numbers of that size, and subtracting it again, rounds to a multiple of the
 * step.
 *
 * @returns float32, same shape as `x`
 */
export function round16<T extends tf.Tensor>(x: T, dtype: HalfDtype): T {
  return tf.tidy(() => {
    const {bits, lowest} = FORMATS[dtype];
    const highest = HIGHEST_EXPONENT - 24; // so that the sum below is finite; no weight is larger
    const magnitude = tf.abs(x);
    const powers = tf.tensor1d(
      Array.from({length: highest - lowest + 2}, (_, i) => 2 ** (lowest + i)), // and one above, to compare with
    );
    const guess = tf.clipByValue(tf.floor(tf.div(tf.log(magnitude), Math.LN2)), lowest, highest);
    const index = tf.sub(guess, lowest); // a logarithm may be one off next to a power of two
    const isBelow = tf.less(magnitude, tf.gather(powers, index.toInt()));
    const isAbove = tf.greaterEqual(magnitude, tf.gather(powers, tf.add(index, 1).toInt()));
    const place = tf.sub(tf.add(index, isAbove.toFloat()), isBelow.toFloat());
    const power = tf.gather(powers, tf.clipByValue(place, 0, highest - lowest).toInt());
    const shift = tf.mul(power, 1.5 * 2 ** (24 - bits));
    const rounded = tf.sub(tf.add(x, shift), shift) as T;
    if (dtype === 'bfloat16') return rounded;
    const isBeyond = tf.greaterEqual(tf.abs(rounded), 65536);
    return tf.where(isBeyond, tf.mul(tf.sign(x), Number.POSITIVE_INFINITY), rounded) as T;
  });
}
