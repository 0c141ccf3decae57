import {
  bitsandbytesKeys,
  bitsandbytesType,
  fromTensors,
  type TensorNames,
  type TensorSource,
  toTensors,
} from './bitsandbytesState.ts';
import {type FourBitType, quantizeFP4, quantizeNF4} from './blockwise/fourBit.ts';
import type {SourceValues} from './blockwise/sourceValues.ts';
import {nearestNames, TfjsLoraError} from './errors.ts';
import type {StorageDtype} from './float16.ts';
import type {FourBitTensor} from './fourBitTensor.ts';
import {type Int8Tensor, quantizeInt8} from './int8.ts';
import type {MatrixShape, QuantizedTensor} from './quantizedTensor.ts';
import type {TensorToWrite} from './safetensors/writeSafetensors.ts';

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

/** How model files store the matrices of a quantizer. */
export interface QuantizerFiles {
  /**
   * Returns the names of all tensors that store a weight; none if the files store it in another way.
   *
   * @param name the weight, `….q_proj.weight`; the tensors may have this name or others
   */
  keys(name: string, source: TensorNames): string[];
  /** Returns the tensors that store a weight, as {@link keys} finds them. */
  toTensors(name: string, matrix: QuantizedTensor): TensorToWrite[];
  /**
   * Reads a weight from the tensors that {@link keys} finds.
   *
   * @param dtype dtype of the weight before quantization, if the tensors do not say it
   * @throws TfjsLoraError `SHAPE_MISMATCH`, `CORRUPT_FILE`, naming the tensor
   */
  fromTensors(name: string, source: TensorSource, dtype: StorageDtype): QuantizedTensor;
}

/** A way to store a weight matrix in fewer bits. */
export interface Quantizer {
  /** The `type` in `quantization: {type}`, and the `quantType` of the matrices it makes. */
  readonly name: string;
  /** @throws TfjsLoraError `NON_FINITE`, `SHAPE_MISMATCH`, `INVALID_ARGUMENT`, naming the tensor */
  quantize(values: SourceValues, shape: MatrixShape, options?: QuantizeOptions): QuantizedTensor;
  /**
   * How model files store its matrices; `quant_method` in `config.json` is then its name. Default: they do not, and a
   * model is saved dequantized.
   */
  readonly files?: QuantizerFiles;
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

/** A quantizer whose matrices model files can store. */
export type SavableQuantizer = Quantizer & Required<Pick<Quantizer, 'files'>>;

/** Returns the quantizers whose matrices model files can store, in the order of registration. */
export function savableQuantizers(): SavableQuantizer[] {
  return [...quantizers.values()].filter(
    (quantizer): quantizer is SavableQuantizer => quantizer.files !== undefined,
  );
}

/** Returns the quantizer in whose format files store the weight `name`; undefined when it is not quantized. */
export function storedQuantizer(name: string, source: TensorNames): SavableQuantizer | undefined {
  return savableQuantizers().find(({files}) => files.keys(name, source).length > 0);
}

/** Returns the names of all registered quantizers, in the order of registration. */
export function quantizerNames(): string[] {
  return [...quantizers.keys()];
}

/** The format of bitsandbytes, in which each weight says its type. */
const bitsandbytesFiles = (type: FourBitType | 'int8'): QuantizerFiles => ({
  keys: (name, source) => (bitsandbytesType(name, source) === type ? bitsandbytesKeys(name, source) : []),
  toTensors: (name, matrix) => toTensors(name, matrix as FourBitTensor | Int8Tensor),
  fromTensors,
});

const FOUR_BIT: [FourBitType, typeof quantizeNF4][] = [
  ['nf4', quantizeNF4],
  ['fp4', quantizeFP4],
];
for (const [name, quantize] of FOUR_BIT) registerQuantizer({name, quantize, files: bitsandbytesFiles(name)});
registerQuantizer({
  name: 'int8',
  // int8 has no blocks, so it drops these options.
  quantize: (values, shape, {blockSize, doubleQuant, ...options} = {}) =>
    quantizeInt8(values, shape, options),
  files: bitsandbytesFiles('int8'),
});

/** Whether a type is one of bitsandbytes' with blocks, `nf4` or `fp4`. */
export const isFourBitType = (type: string): type is FourBitType => FOUR_BIT.some(([name]) => name === type);

/** Whether a type is one of bitsandbytes'. */
export const isBitsandbytesType = (type: string): type is FourBitType | 'int8' =>
  isFourBitType(type) || type === 'int8';
