import {type FourBitType, quantizeFP4, quantizeNF4} from './blockwise/fourBit.ts';
import type {SourceValues} from './blockwise/sourceValues.ts';
import {nearestNames, TfjsLoraError} from './errors.ts';
import type {StorageDtype} from './float16.ts';
import {quantizeInt8} from './int8.ts';
import type {MatrixShape, QuantizedTensor} from './quantizedTensor.ts';

/** Options that every quantizer receives; a quantizer may have further options of its own. */
export interface QuantizeOptions {
  /** Values that share a scale. */
  blockSize?: number;
  /** Whether the scales are quantized too. */
  doubleQuant?: boolean;
  /** `bfloat16` or `float16` when the values are 16-bit bits. */
  dtype?: StorageDtype;
  /** The tensor, for messages. */
  name?: string;
  [option: string]: unknown;
}

/** A way to store a weight matrix in fewer bits. */
export interface Quantizer {
  /** The `type` in `quantization: {type}`, and the `quantType` of the matrices it makes. */
  readonly name: string;
  /** @throws TfjsLoraError `NON_FINITE`, `SHAPE_MISMATCH`, `INVALID_ARGUMENT`, naming the tensor */
  quantize(values: SourceValues, shape: MatrixShape, options?: QuantizeOptions): QuantizedTensor;
  /** Returns rows `begin` to `end` as float32. */
  dequantizeRows(matrix: QuantizedTensor, begin: number, end: number, out?: Float32Array): Float32Array;
}

const quantizers = new Map<string, Quantizer>();

/**
 * Registers a quantizer under its name. `nf4`, `fp4` and `int8` are built in.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` when another one has the name: a library must not change what a built-in
 *   name means. Registering the same object again does nothing, so that a notebook's cell may run twice
 */
export function registerQuantizer(quantizer: Quantizer): void {
  const {name} = quantizer;
  const known = quantizers.get(name);
  if (!name || (known !== undefined && known !== quantizer)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `registerQuantizer [name]: expected a new name, got '${name}', ` +
        `with ${quantizerNames().join(', ')} taken. Choose another.`,
    );
  }
  quantizers.set(name, quantizer);
}

/** @throws TfjsLoraError `INVALID_ARGUMENT` with the nearest names when none is called `name` */
export function getQuantizer(name: string): Quantizer {
  const quantizer = quantizers.get(name);
  if (quantizer === undefined) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `Quantizer [${name}]: expected one of ${quantizerNames().join(', ')}, got '${name}'. ` +
        `Nearest: ${nearestNames(name, quantizerNames(), 1)}. Add others with registerQuantizer.`,
    );
  }
  return quantizer;
}

/** Returns the names of all registered quantizers, in the order of registration. */
export function quantizerNames(): string[] {
  return [...quantizers.keys()];
}

const dequantizeRows: Quantizer['dequantizeRows'] = (matrix, begin, end, out) =>
  matrix.dequantizeRows(begin, end, out);

const FOUR_BIT: [FourBitType, typeof quantizeNF4][] = [
  ['nf4', quantizeNF4],
  ['fp4', quantizeFP4],
];
for (const [name, quantize] of FOUR_BIT) registerQuantizer({name, quantize, dequantizeRows});
registerQuantizer({
  name: 'int8',
  // int8 has no blocks, so it drops these options.
  quantize: (values, shape, {blockSize, doubleQuant, ...options} = {}) =>
    quantizeInt8(values, shape, options),
  dequantizeRows,
});
