/** A row-major matrix `[rows, cols]` on the host. */
export interface DenseValues {
  rows: number;
  cols: number;
  values: Float32Array;
}

/** Adds `factor · B · A` to a row-major matrix `[b.rows, a.cols]`. */
export function addProduct(to: Float32Array, b: DenseValues, a: DenseValues, factor: number): void {
  for (let row = 0; row < b.rows; row++) {
    for (let k = 0; k < a.rows; k++) {
      const scaled = factor * b.values[row * b.cols + k];
      for (let col = 0; col < a.cols; col++) to[row * a.cols + col] += scaled * a.values[k * a.cols + col];
    }
  }
}

/** Puts matrices of equally many columns below each other. */
export function stacked(matrices: DenseValues[]): DenseValues {
  const rows = matrices.reduce((sum, matrix) => sum + matrix.rows, 0);
  const [{cols}] = matrices;
  const values = new Float32Array(rows * cols);
  let place = 0;
  for (const matrix of matrices) {
    values.set(matrix.values, place);
    place += matrix.values.length;
  }
  return {rows, cols, values};
}

/** Puts matrices of equally many rows beside each other. */
export function joined(matrices: DenseValues[]): DenseValues {
  const cols = matrices.reduce((sum, matrix) => sum + matrix.cols, 0);
  const [{rows}] = matrices;
  const values = new Float32Array(rows * cols);
  let first = 0;
  for (const matrix of matrices) {
    for (let row = 0; row < rows; row++)
      values.set(matrix.values.subarray(row * matrix.cols, (row + 1) * matrix.cols), row * cols + first);
    first += matrix.cols;
  }
  return {rows, cols, values};
}
