import * as tf from '@tensorflow/tfjs';
import {assertShape} from './assertShape.ts';
import {dispatch} from './dispatch.ts';
import type {StoredMatrix} from './storedMatrix.ts';
import {unpack16} from './unpack16.ts';

/** How many float32 elements of a 16-bit matrix exist at once (64 MiB). */
const TILE_ELEMENTS = 1 << 24;

/**
 * Product with a stored matrix, widened to float32 tile by tile: `x · Wᵀ` (a linear layer's forward) or
 * `x · W` (its backward). Not differentiable by itself; see {@link linear}.
 *
 * @param x `[N, cols]` when `transposeWeight`, else `[N, rows]`; float32
 * @param tileElements how many float32 elements of the weight may exist at once
 * @returns `[N, rows]` when `transposeWeight`, else `[N, cols]`; float32
 */
export function storedMatMul(
  x: tf.Tensor2D,
  weight: StoredMatrix,
  transposeWeight: boolean,
  tileElements = TILE_ELEMENTS,
): tf.Tensor2D {
  const {tensor, dtype, rows, cols} = weight;
  assertShape('storedMatMul input', x, [-1, transposeWeight ? cols : rows]);
  if (dtype === 'float32') return tf.matMul(x, tensor as tf.Tensor2D, false, transposeWeight);
  return dispatch('StoredMatMul', {x, weight: tensor}, {dtype, rows, cols, transposeWeight}, () => {
    const tileRows = Math.max(1, Math.floor(tileElements / cols));
    let sum: tf.Tensor2D | undefined;
    const columns: tf.Tensor2D[] = [];
    for (let row = 0; row < rows; row += tileRows) {
      const count = Math.min(tileRows, rows - row);
      const previous = sum;
      const product = tf.tidy(() => {
        const tile = unpack16(tf.slice(tensor as tf.Tensor2D, [row, 0], [count, -1]), dtype, cols);
        if (transposeWeight) return tf.matMul(x, tile, false, true); // [N, count]
        const part = tf.matMul(tf.slice(x, [0, row], [-1, count]), tile); // [N, cols]
        return previous ? tf.add(previous, part) : part;
      }) as tf.Tensor2D;
      previous?.dispose();
      if (transposeWeight) columns.push(product);
      else sum = product;
    }
    return sum ?? (columns.length === 1 ? columns[0] : tf.concat(columns, 1));
  });
}
