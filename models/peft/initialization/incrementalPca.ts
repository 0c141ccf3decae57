import type {DenseValues} from '../denseValues.ts';
import {truncatedSvd} from '../truncatedSvd.ts';

/**
 * The principal components of rows that come in parts, as scikit-learn's `IncrementalPCA` and PEFT's, with an exact
 * decomposition of each part.
 */
export class IncrementalPca {
  /** The components so far, each of `cols` elements; the largest of them is positive. */
  components: Float64Array[] = [];
  singularValues: number[] = [];
  /** The share of the variance that each component explains. */
  explainedVarianceRatio: number[] = [];
  private mean?: Float64Array;
  private variance?: Float64Array;
  private seen = 0;

  /** @param count number of components */
  constructor(readonly count: number) {}

  /** Adds rows, at least as many as components. */
  add({rows, cols, values}: DenseValues): void {
    const before = this.mean;
    const {mean: own, squares} = momentsOf({rows, cols, values});
    const total = this.seen + rows;
    const stacked = this.seen > 0 ? this.components.length + rows + 1 : rows;
    const matrix = new Float32Array(stacked * cols);
    let at = 0;
    for (const [i, component] of before ? this.components.entries() : []) {
      for (let col = 0; col < cols; col++) matrix[at++] = this.singularValues[i] * component[col];
    }
    for (let row = 0; row < rows; row++) {
      for (let col = 0; col < cols; col++) matrix[at++] = values[row * cols + col] - own[col];
    }
    if (before) {
      const factor = Math.sqrt((this.seen / total) * rows);
      for (let col = 0; col < cols; col++) matrix[at++] = factor * (before[col] - own[col]);
    }
    this.update(own, squares, rows);
    const {s, v} = truncatedSvd({rows: stacked, cols, values: matrix}, this.count);
    for (const vector of v) makeLargestPositive(vector);
    const allVariance = this.variance!.reduce((sum, value) => sum + value, 0) * total;
    this.components = v;
    this.singularValues = s;
    this.explainedVarianceRatio = s.map((value) => value ** 2 / allVariance);
  }

  /** Updates mean and variance of the columns. */
  private update(own: Float64Array, squares: Float64Array, rows: number): void {
    const {seen, mean, variance} = this;
    const total = seen + rows;
    this.variance = squares.map((value, col) => {
      if (!mean || !variance) return value / total;
      return (variance[col] * seen + value + ((seen * rows) / total) * (mean[col] - own[col]) ** 2) / total;
    });
    this.mean = own.map((value, col) => (mean ? (mean[col] * seen + value * rows) / total : value));
    this.seen = total;
  }
}

/** Returns the columns' means and their sums of squared differences from these. */
function momentsOf({rows, cols, values}: DenseValues): {mean: Float64Array; squares: Float64Array} {
  const mean = new Float64Array(cols);
  const squares = new Float64Array(cols);
  for (let i = 0; i < values.length; i++) mean[i % cols] += values[i] / rows;
  for (let i = 0; i < values.length; i++) squares[i % cols] += (values[i] - mean[i % cols]) ** 2;
  return {mean, squares};
}

function makeLargestPositive(vector: Float64Array): void {
  let largest = 0;
  for (const value of vector) if (Math.abs(value) > Math.abs(largest)) largest = value;
  if (largest < 0) for (let i = 0; i < vector.length; i++) vector[i] *= -1;
}
