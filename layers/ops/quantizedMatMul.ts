import * as tf from '@tensorflow/tfjs';
import {dequantizeRows} from './dequantizeRows.ts';
import {dispatch} from './dispatch.ts';
import {op, type Tensors} from './op.ts';
import type {DeviceFormat, QuantizedMatrix} from './quantizedMatrix.ts';
import type {StoredTensors} from './storedMatrix.ts';
import {tiledMatMul} from './tiledMatMul.ts';

export const quantizedMatMulOp = op<
  Tensors<'x'> & StoredTensors,
  DeviceFormat & {transposeWeight: boolean},
  tf.Tensor2D
>('QuantizedMatMul');

/**
 * Multiplies by a quantized matrix, which is dequantized tile by tile: `x · Wᵀ` (a linear layer's forward) or `x · W`
 * (its backward). Not differentiable by itself; see {@link linear}.
 *
 * @param x `[N, cols]` when `transposeWeight`, else `[N, rows]`; float32
 * @param tileElements how many float32 elements of the weight may exist at the same time
 * @returns `[N, rows]` when `transposeWeight`, else `[N, cols]`; float32
 */
export function quantizedMatMul(
  x: tf.Tensor2D,
  weight: QuantizedMatrix,
  transposeWeight: boolean,
  tileElements?: number,
): tf.Tensor2D {
  const composed = () =>
    tiledMatMul(x, weight, transposeWeight, (begin, end) => dequantizeRows(weight, begin, end), tileElements);
  if (weight.dtype === 'hosted') return tf.tidy(composed);
  const {tensors, ...attributes} = weight;
  return dispatch(quantizedMatMulOp, {x, ...tensors}, {...attributes, transposeWeight}, composed);
}
