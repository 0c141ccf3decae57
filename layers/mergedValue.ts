import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import type {HalfDtype} from '../quant/float16.ts';
import {backendTraits} from './ops/backendTraits.ts';
import {unpack16} from './ops/unpack16.ts';
import type {Parameter} from './parameter.ts';

/**
 * Returns a merged weight as `target` stores it, after checking it.
 *
 * @param weight float32, of the target's logical shape
 * @param where the layer's name, for messages
 * @throws TfjsLoraError `NON_FINITE`, also for values that overflow in 16 bits; where reading would wait, saving checks it
 */
export function mergedValue(target: Parameter, weight: tf.Tensor2D, where: string): tf.Tensor {
  const stored = target.stored(weight);
  if (!backendTraits().readsAtOnce) return stored;
  const {storage, logicalShape} = target;
  const kept =
    storage === 'float32' ? stored : unpack16(stored as tf.Tensor2D, storage as HalfDtype, logicalShape[1]);
  if (tf.all(tf.isFinite(kept)).dataSync()[0]) return stored;
  throw new TfjsLoraError('NON_FINITE', `merged weight of ${where}: expected numbers, got NaN or infinity`);
}
