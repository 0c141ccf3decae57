import {
  bitsandbytesKeys,
  bitsandbytesType,
  fromTensors,
  type TensorNames,
  toTensors,
} from './bitsandbytesState.ts';
import {type FourBitType, quantizeFP4, quantizeNF4} from './blockwise/fourBit.ts';
import {nearestNames, TfjsLoraError} from './errors.ts';
import type {FourBitTensor} from './fourBitTensor.ts';
import {awq} from './grouped/awq.ts';
import {compressedTensors} from './grouped/compressedTensors.ts';
import {fp8} from './grouped/fp8.ts';
import {gptq} from './grouped/gptq.ts';
import {type Int8Tensor, quantizeInt8} from './int8.ts';
import type {Quantizer, QuantizerFiles} from './quantizer.ts';

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
        `Nearest: ${byBits(name) ?? nearestNames(name, quantizerNames(), 1)}. Add others with registerQuantizer.`,
    );
  }
  return quantizer;
}

/** Returns the usual format with the number of bits in a name, such as `8bit` or `q4`. */
function byBits(name: string): string | undefined {
  const [bits] = /[48]/.exec(String(name)) ?? [];
  return bits && {4: 'nf4', 8: 'int8'}[bits];
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

/** Returns the names of the quantizers that quantize weights, and not only read files. */
export function quantizingNames(): string[] {
  return quantizerNames().filter((name) => !getQuantizer(name).isReadOnly);
}

/** The format of bitsandbytes, in which each weight says its type. */
const bitsandbytesFiles = (type: FourBitType | 'int8'): QuantizerFiles => ({
  keys: (name, source) => (bitsandbytesType(name, source) === type ? bitsandbytesKeys(name, source) : []),
  toTensors: (name, matrix) => toTensors(name, matrix as FourBitTensor | Int8Tensor),
  fromTensors: (name, source, dtype) => fromTensors(name, source, dtype === 'float32' ? 'float16' : dtype),
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

for (const quantizer of [gptq, awq, fp8, compressedTensors]) registerQuantizer(quantizer);

/** Whether a type is one of bitsandbytes' with blocks, `nf4` or `fp4`. */
export const isFourBitType = (type: string): type is FourBitType => FOUR_BIT.some(([name]) => name === type);

/** Whether a type is one of bitsandbytes'. */
export const isBitsandbytesType = (type: string): type is FourBitType | 'int8' =>
  isFourBitType(type) || type === 'int8';
