import * as tf from '@tensorflow/tfjs';

/** How many float32 elements of a widened matrix exist at the same time (16 MiB). */
const TILE_ELEMENTS = 1 << 22;

/**
 * Computes `x · Wᵀ` or `x · W` with a matrix that is widened to float32 a few rows at a time.
 *
 * @param x `[N, cols]` when `transposeWeight`, else `[N, rows]`; float32
 * @param widen returns rows `begin` to `end`, `[end − begin, cols]` float32
 */
export function tiledMatMul(
  x: tf.Tensor2D,
  {rows, cols}: {rows: number; cols: number},
  transposeWeight: boolean,
  widen: (begin: number, end: number) => tf.Tensor2D,
  tileElements = TILE_ELEMENTS,
): tf.Tensor2D {
  const tileRows = Math.max(1, Math.floor(tileElements / cols));
  let sum: tf.Tensor2D | undefined;
  const columns: tf.Tensor2D[] = [];
  for (let row = 0; row < rows; row += tileRows) {
    const count = Math.min(tileRows, rows - row);
    const previous = sum;
    const product = tf.tidy(() => {
      const tile = widen(row, row + count);
      if (transposeWeight) return tf.matMul(x, tile, false, true); // [N, count]
      const part = tf.matMul(tf.slice(x, [0, row], [-1, count]), tile); // [N, cols]
      return previous ? tf.add(previous, part) : part;
    }) as tf.Tensor2D;
    previous?.dispose();
    if (transposeWeight) columns.push(product);
    else sum = product;
  }
  return sum ?? (columns.length === 1 ? columns[0] : tf.concat(columns, 1));
}
