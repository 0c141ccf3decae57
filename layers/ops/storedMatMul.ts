import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {dispatch} from './dispatch.ts';
import {op, type Tensors} from './op.ts';
import {quantizedMatMul} from './quantizedMatMul.ts';
import {type HalfFormat, isQuantized, type StoredMatrix} from './storedMatrix.ts';
import {tiledMatMul} from './tiledMatMul.ts';
import {unpack16} from './unpack16.ts';

export const storedMatMulOp = op<
  Tensors<'x' | 'weight'>,
  HalfFormat & {transposeWeight: boolean},
  tf.Tensor2D
>('StoredMatMul');

/**
 * Multiplies by a stored matrix, which is widened to float32 tile by tile: `x · Wᵀ` (a linear layer's forward) or `x ·
 * W` (its backward). Not differentiable by itself; see {@link linear}.
 *
 * @param x `[N, cols]` when `transposeWeight`, else `[N, rows]`; float32
 * @param tileElements how many float32 elements of the weight may exist at the same time
 * @returns `[N, rows]` when `transposeWeight`, else `[N, cols]`; float32
 */
export function storedMatMul(
  x: tf.Tensor2D,
  weight: StoredMatrix,
  transposeWeight: boolean,
  tileElements?: number,
): tf.Tensor2D {
  const {rows, cols} = weight;
  assertShape('storedMatMul input', x, [-1, transposeWeight ? cols : rows]);
  if (isQuantized(weight)) return quantizedMatMul(x, weight, transposeWeight, tileElements);
  const {tensor, dtype} = weight;
  if (dtype === 'float32') return tf.matMul(x, tensor as tf.Tensor2D, false, transposeWeight);
  return dispatch(storedMatMulOp, {x, weight: tensor}, {dtype, rows, cols, transposeWeight}, () => {
    const widen = (begin: number, end: number) =>
      unpack16(tf.slice(tensor as tf.Tensor2D, [begin, 0], [end - begin, -1]), dtype, cols);
    return tiledMatMul(x, weight, transposeWeight, widen, tileElements);
  });
}
