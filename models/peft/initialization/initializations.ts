import {Matrix, QrDecomposition} from 'ml-matrix';
import seedrandom from 'seedrandom';
import {quantizeNF4} from '../../../quant/blockwise/fourBit.ts';
import {quantizeInt8} from '../../../quant/int8.ts';
import type {QuantizedTensor} from '../../../quant/quantizedTensor.ts';
import {addProduct, type DenseValues} from '../denseValues.ts';
import {leastLeftVectors, truncatedSvd} from '../truncatedSvd.ts';

/** Settings of an initialization, in addition to the base's weight. */
export interface InitializationSettings {
  rank: number;
  /** Factor on `B · A`. */
  scaling: number;
  loftqBits: 4 | 8;
  loftqIterations: number;
  /** Seed of the random values, for this layer. */
  seed: number;
}

/** An adapter's initial matrices, and the change of the base. */
export interface InitialValues {
  /** `[rank, inputDim]`. */
  a: Float32Array;
  /** `[units, rank]`. */
  b: Float32Array;
  /** Default: the base does not change. `residual`: the update is subtracted from it. A tensor replaces it. */
  base?: 'residual' | QuantizedTensor;
}

/** Makes an adapter's matrices from its base `[units, inputDim]`. */
export type Initialization = (weight: DenseValues, settings: InitializationSettings) => InitialValues;

/** Initializations by PEFT's names for `init_lora_weights`. The first three change the base. */
export const INITIALIZATIONS = {pissa, olora, loftq, orthogonal, mica} satisfies Record<
  string,
  Initialization
>;
export type InitializationName = keyof typeof INITIALIZATIONS | 'eva' | 'corda' | 'lora_ga';

/** The adapter gets the principal part of the base, which keeps the rest. Meng et al. 2024. */
function pissa(weight: DenseValues, {rank, scaling}: InitializationSettings): InitialValues {
  return {...split(weight, rank, scaling), base: 'residual'};
}

/** Like PiSSA, with the first columns of a QR decomposition, which are orthonormal. Büyükakyüz 2024. */
function olora({rows, cols, values}: DenseValues, {rank}: InitializationSettings): InitialValues {
  // The first columns of Q depend on the first columns of W only.
  const q = new QrDecomposition(new Matrix(columnsOf(rows, cols, values, rank))).orthogonalMatrix;
  const b = new Float32Array(rows * rank);
  const a = new Float64Array(rank * cols); // R = Qᵀ · W
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < rank; k++) {
      const factor = q.get(row, k);
      b[row * rank + k] = factor;
      for (let col = 0; col < cols; col++) a[k * cols + col] += factor * values[row * cols + col];
    }
  }
  return {a: Float32Array.from(a), b, base: 'residual'};
}

/**
 * The base becomes what quantization leaves of it, and the adapter the principal part of what it loses. Li et al. 2023.
 * As in PEFT, the adapter's scale is not divided out.
 */
function loftq(
  {rows, cols, values}: DenseValues,
  {rank, loftqBits, loftqIterations}: InitializationSettings,
): InitialValues {
  const quantize = (source: Float32Array): QuantizedTensor =>
    loftqBits === 4 ? quantizeNF4(source, [rows, cols]) : quantizeInt8(source, [rows, cols]);
  let source = values;
  for (let iteration = 1; ; iteration++) {
    const base = quantize(source);
    const rounded = base.dequantize();
    const lost = values.map((value, i) => value - rounded[i]);
    const {a, b} = split({rows, cols, values: lost}, rank, 1);
    if (iteration === loftqIterations) return {a, b, base};
    source = values.slice();
    addProduct(source, {rows, cols: rank, values: b}, {rows: rank, cols, values: a}, -1);
  }
}

/** Random matrices whose product is 0, of even rank. */
function orthogonal({rows, cols}: DenseValues, {rank, seed}: InitializationSettings): InitialValues {
  const random = seedrandom(String(seed));
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const draw = (height: number, width: number) =>
    new Matrix(Array.from({length: height}, () => Array.from({length: width}, normal)));
  const q = new QrDecomposition(draw(rank, rank)).orthogonalMatrix;
  const every2nd = (first: number) => new Matrix(q.to2DArray().filter((_, i) => i % 2 === first));
  const a = draw(cols, rank / 2)
    .mmul(every2nd(0))
    .transpose()
    .div(10);
  const b = draw(rows, rank / 2)
    .mmul(every2nd(1))
    .div(10);
  return {a: Float32Array.from(a.to1DArray()), b: Float32Array.from(b.to1DArray())};
}

/** B holds the left vectors of the smallest singular values, and A starts at 0. */
function mica({rows, cols, values}: DenseValues, {rank}: InitializationSettings): InitialValues {
  const {u} = leastLeftVectors({rows, cols, values}, rank);
  const b = Float32Array.from({length: rows * rank}, (_, i) => u[i % rank][Math.floor(i / rank)]);
  return {a: new Float32Array(rank * cols), b};
}

/** Returns A and B, each with the root of the singular values, so that `scaling · B · A` is the nearest of its rank. */
function split(
  {rows, cols, values}: DenseValues,
  rank: number,
  scaling: number,
): Pick<InitialValues, 'a' | 'b'> {
  const {u, s, v} = truncatedSvd({rows, cols, values}, rank);
  const roots = s.map((value) => Math.sqrt(value / scaling));
  return {
    a: Float32Array.from(
      {length: rank * cols},
      (_, i) => roots[Math.floor(i / cols)] * v[Math.floor(i / cols)][i % cols],
    ),
    b: Float32Array.from(
      {length: rows * rank},
      (_, i) => roots[i % rank] * u[i % rank][Math.floor(i / rank)],
    ),
  };
}

/** The first columns of a matrix, as rows of numbers. */
const columnsOf = (rows: number, cols: number, values: Float32Array, count: number): number[][] =>
  Array.from({length: rows}, (_, row) => Array.from(values.subarray(row * cols, row * cols + count)));
