import type * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../../quant/errors.ts';

/**
 * Checks a tensor's shape against `expected`, where −1 stands for any size.
 *
 * @param what the tensor's name in the message, such as `rmsNorm weight`
 * @throws TfjsLoraError `SHAPE_MISMATCH`
 */
export function assertShape(what: string, tensor: tf.Tensor, expected: number[]): void {
  const {shape} = tensor;
  const matches =
    shape.length === expected.length && expected.every((size, i) => size === -1 || size === shape[i]);
  if (matches) return;
  const pattern = expected.map((size) => (size === -1 ? '*' : size)).join(', ');
  throw new TfjsLoraError('SHAPE_MISMATCH', `${what}: expected [${pattern}], got [${shape.join(', ')}]`);
}
