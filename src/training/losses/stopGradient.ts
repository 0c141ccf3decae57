import * as tf from '@tensorflow/tfjs';
import {customGradient} from '../../../layers/ops/customGradient.ts';

/** Returns the same values as a constant: no gradient flows through them. */
export function stopGradient<T extends tf.Tensor>(x: T): T {
  return customGradient(
    [x],
    () => ({value: tf.clone(x)}),
    (dy) => [tf.zerosLike(dy)],
  );
}
