import {Matrix, SVD} from 'ml-matrix';
import seedrandom from 'seedrandom';
import type {DenseValues} from './denseValues.ts';

/** The largest singular values with their vectors: `Σ s[i] · u[i] · v[i]ᵀ` is the nearest matrix of that rank. */
export interface TruncatedSvd {
  /** Left vectors, each of `rows` elements. */
  u: Float64Array[];
  /** Singular values, falling. */
  s: number[];
  /** Right vectors, each of `cols` elements. */
  v: Float64Array[];
}

/** Residual of a singular triplet at which it counts as found, as a share of the largest singular value. */
const TOLERANCE = 1e-9;
/** Length below which a vector counts as zero, as a share of the largest singular value so far. */
const NEGLIGIBLE = 1e-13;

/**
 * Returns the `rank` largest singular values of a matrix and their vectors, in double precision.
 *
 * Golub–Kahan–Lanczos bidiagonalization with full reorthogonalization: it multiplies the matrix by vectors only, a few
 * times `rank` of them, and decomposes the small bidiagonal matrix. The signs of a pair of vectors are arbitrary.
 *
 * @param rank at most the smaller side is returned
 */
export function truncatedSvd(matrix: DenseValues, rank: number): TruncatedSvd {
  const {rows, cols} = matrix;
  const forward = (vector: Float64Array) => multiply(matrix, vector);
  const backward = (vector: Float64Array) => multiplyTransposed(matrix, vector);
  // The side that vectors start from must be the smaller one: once it is complete, the form is exact.
  if (rows >= cols) return bidiagonalize(forward, backward, cols, rank);
  const {u, s, v} = bidiagonalize(backward, forward, rows, rank);
  return {u: v, s, v: u};
}

/** Returns the left vectors of the `rank` smallest singular values of a matrix, falling, by a full decomposition. */
export function leastLeftVectors(
  {rows, cols, values}: DenseValues,
  rank: number,
): Pick<TruncatedSvd, 'u' | 's'> {
  const matrix = new Matrix(
    range(rows).map((row) => Array.from(values.subarray(row * cols, (row + 1) * cols))),
  );
  const {leftSingularVectors, diagonal} = new SVD(matrix, {
    computeRightSingularVectors: false,
    autoTranspose: true,
  });
  const indices = range(rank).map((i) => Math.min(rows, cols) - rank + i);
  return {
    u: indices.map((i) => Float64Array.from(leftSingularVectors.getColumn(i))),
    s: indices.map((i) => diagonal[i]),
  };
}

const range = (length: number) => Array.from({length}, (_, i) => i);

type Operator = (vector: Float64Array) => Float64Array;

/**
 * @param forward the matrix, from the smaller side to the larger
 * @param backward its transpose
 * @param most the smaller side
 */
function bidiagonalize(forward: Operator, backward: Operator, most: number, rank: number): TruncatedSvd {
  const wanted = Math.min(rank, most);
  const random = seedrandom('truncatedSvd');
  const us: Float64Array[] = [];
  const vs: Float64Array[] = [];
  const alphas: number[] = [];
  const betas: number[] = []; // betas[i] joins the columns i and i + 1
  let next = new Float64Array(most).map(() => random() - 0.5) as Float64Array;
  normalize(next);
  let check = Math.min(most, 2 * wanted + 16);
  for (;;) {
    vs.push(next);
    const u = forward(next);
    const scale = Math.max(0, ...alphas, ...betas);
    const alpha = settle(u, us, scale, random);
    us.push(u);
    alphas.push(alpha);
    next = backward(u);
    const isAll = us.length === most;
    const beta = isAll ? 0 : settle(next, vs, Math.max(scale, alpha), random);
    if (us.length >= check) {
      const found = triplets(us, vs, alphas, betas, wanted);
      if (isAll || found.last.every((share) => beta * Math.abs(share) <= TOLERANCE * found.s[0]))
        return found;
      check = Math.min(most, Math.ceil(1.3 * check));
    }
    betas.push(beta);
  }
}

/** Singular values and vectors of the matrix from its bidiagonal form, and the left vectors' last coordinates in it. */
function triplets(
  us: Float64Array[],
  vs: Float64Array[],
  alphas: number[],
  betas: number[],
  count: number,
): TruncatedSvd & {last: number[]} {
  const size = us.length;
  const bidiagonal = Matrix.zeros(size, size);
  for (let i = 0; i < size; i++) {
    bidiagonal.set(i, i, alphas[i]);
    if (i + 1 < size) bidiagonal.set(i, i + 1, betas[i]);
  }
  const svd = new SVD(bidiagonal);
  const [left, right] = [svd.leftSingularVectors, svd.rightSingularVectors];
  const indices = range(count);
  return {
    u: indices.map((i) => combine(us, left.getColumn(i))),
    s: indices.map((i) => svd.diagonal[i]),
    v: indices.map((i) => combine(vs, right.getColumn(i))),
    last: indices.map((i) => left.get(size - 1, i)),
  };
}

/**
 * Makes `vector` a unit vector that is orthogonal to `basis`, and returns its length before. A vector that lies in the
 * basis is replaced with a random one, and its length is 0: the matrix has fewer directions than were reached so far.
 */
function settle(vector: Float64Array, basis: Float64Array[], scale: number, random: () => number): number {
  orthogonalize(vector, basis);
  const length = Math.sqrt(dot(vector, vector));
  if (length > NEGLIGIBLE * scale && length > 0) {
    for (let i = 0; i < vector.length; i++) vector[i] /= length;
    return length;
  }
  for (let i = 0; i < vector.length; i++) vector[i] = random() - 0.5;
  orthogonalize(vector, basis);
  normalize(vector);
  return 0;
}

/** Subtracts a vector's part in an orthonormal basis, twice, because the first pass leaves rounding errors. */
function orthogonalize(vector: Float64Array, basis: Float64Array[]): void {
  for (let pass = 0; pass < 2; pass++) {
    for (const each of basis) add(vector, each, -dot(vector, each));
  }
}

function combine(vectors: Float64Array[], weights: number[]): Float64Array {
  const sum = new Float64Array(vectors[0].length);
  for (const [i, vector] of vectors.entries()) add(sum, vector, weights[i]);
  return sum;
}

function add(to: Float64Array, vector: Float64Array, factor: number): void {
  for (let i = 0; i < to.length; i++) to[i] += factor * vector[i];
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

function normalize(vector: Float64Array): void {
  const length = Math.sqrt(dot(vector, vector));
  for (let i = 0; i < vector.length; i++) vector[i] /= length;
}

function multiply({rows, cols, values}: DenseValues, vector: Float64Array): Float64Array {
  const product = new Float64Array(rows);
  for (let row = 0, at = 0; row < rows; row++) {
    let sum = 0;
    for (let col = 0; col < cols; col++, at++) sum += values[at] * vector[col];
    product[row] = sum;
  }
  return product;
}

function multiplyTransposed({rows, cols, values}: DenseValues, vector: Float64Array): Float64Array {
  const product = new Float64Array(cols);
  for (let row = 0, at = 0; row < rows; row++) {
    const factor = vector[row];
    for (let col = 0; col < cols; col++, at++) product[col] += values[at] * factor;
  }
  return product;
}
