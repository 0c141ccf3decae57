import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../quant/errors.ts';
import {backendTraits} from './backendTraits.ts';

/**
 * Returns numbers that are needed before anything can be computed: rows as they are, a tensor after reading it.
 *
 * @param what the values' name in errors
 * @param advice what to do instead if tensors cannot be read synchronously
 * @throws TfjsLoraError `UNSUPPORTED` for a tensor on a backend that reads only asynchronously
 */
export function readAtOnce<T>(what: string, values: tf.Tensor2D | T[], advice: string): number[][] | T[] {
  if (!(values instanceof tf.Tensor)) return values;
  if (backendTraits().readsAtOnce) return values.arraySync();
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${what}: expected rows of numbers, got a tensor on ${tf.getBackend()}, which cannot be read synchronously. ${advice}`,
  );
}
