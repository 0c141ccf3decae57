import type * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {customGradient} from './customGradient.ts';
import {storedMatMul} from './storedMatMul.ts';
import {type StoredMatrix, tensorsOf, withTensors} from './storedMatrix.ts';

/**
 * Multiplies by a frozen weight, `x · Wᵀ`, stored as in PyTorch's `nn.Linear`. Only `x` gets a gradient: the weight
 * never enters the tape, regardless of its type.
 *
 * @param x `[N, inputDim]` float32
 * @param weight `[units, inputDim]`, float32, packed 16-bit or quantized
 * @returns `[N, units]` float32
 * @throws TfjsLoraError `SHAPE_MISMATCH` when `x` is not `[N, inputDim]`
 */
export function linear(x: tf.Tensor2D, weight: StoredMatrix): tf.Tensor2D {
  assertShape('linear input', x, [-1, weight.cols]);
  return customGradient(
    [x],
    () => ({value: storedMatMul(x, weight, true), saved: Object.values(tensorsOf(weight))}),
    (dy, saved) => [storedMatMul(dy, withTensors(weight, saved), false)],
  );
}
