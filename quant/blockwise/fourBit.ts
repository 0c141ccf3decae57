import {TfjsLoraError} from '../errors.ts';
import type {StorageDtype} from '../float16.ts';
import {FourBitTensor} from '../fourBitTensor.ts';
import {assertKnownOptions, type OptionNames} from '../knownOptions.ts';
import {assertMatrixShape, type MatrixShape} from '../quantizedTensor.ts';
import {FP4_CODE, NF4_CODE} from './codebooks.ts';
import {quantizeAbsmax} from './doubleQuantization.ts';
import {type CodeSearch8Bit, SMALLEST_SCALE} from './dynamic8Bit.ts';
import {
  INFINITY_BITS,
  magnitudeBits,
  nonFinite,
  readSource,
  type SourceValues,
  sourceDtype,
} from './sourceValues.ts';

/** The 4-bit formats. */
export type FourBitType = 'nf4' | 'fp4';

/** Block sizes that bitsandbytes accepts. */
export const FOUR_BIT_BLOCK_SIZES: readonly number[] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

export interface FourBitOptions {
  /** Values that share a scale, one of {@link FOUR_BIT_BLOCK_SIZES}, default 64. */
  blockSize?: number;
  /** Whether to store the scales in 8 bits too: 4.127 bits per weight instead of 4.5. Default false. */
  doubleQuant?: boolean;
  /** `bfloat16` or `float16` when the values are 16-bit bits; not needed for float32. */
  dtype?: StorageDtype;
  /** The tensor, for messages. */
  name?: string;
  /** Method that finds the codes in double quantization, default `nearest`; see {@link quantizeAbsmax}. */
  absmaxSearch?: CodeSearch8Bit;
  /** See {@link torchMean}, default 1. */
  torchThreads?: number;
}
const FOUR_BIT_OPTIONS = {
  blockSize: true,
  doubleQuant: true,
  dtype: true,
  name: true,
  absmaxSearch: true,
  torchThreads: true,
} satisfies OptionNames<FourBitOptions>;

/**
 * Quantizes a weight matrix to NormalFloat4, bit-exact with bitsandbytes' `quantize_4bit(quant_type='nf4')` on CPU.
 * Blocks run over the row-major values, across the ends of rows. Each value times the reciprocal of its block's largest
 * magnitude becomes the nearest of 16 numbers, the lower one at a tie. Element 2i is the high half of byte i.
 *
 * @param values row-major `[rows, cols]`
 * @throws TfjsLoraError `NON_FINITE` naming the tensor and the element; `SHAPE_MISMATCH` when `values` does not fill
 *   `shape`; `INVALID_ARGUMENT` for an impossible block size or dtype
 * @example
 * ```ts
 * import {quantizeNF4} from 'tfjs-lora/quant';
 *
 * const weight = quantizeNF4(new Float32Array(64 * 128), [64, 128], {doubleQuant: true, name: 'q_proj.weight'});
 * console.log(weight.byteLength, weight.dequantizeRows(0, 2));
 * ```
 */
export function quantizeNF4(
  values: SourceValues,
  shape: MatrixShape,
  options?: FourBitOptions,
): FourBitTensor {
  return quantizeFourBit('nf4', values, shape, options);
}

/** Does what {@link quantizeNF4} does, for FP4: bitsandbytes' `quantize_4bit(quant_type='fp4')`. */
export function quantizeFP4(
  values: SourceValues,
  shape: MatrixShape,
  options?: FourBitOptions,
): FourBitTensor {
  return quantizeFourBit('fp4', values, shape, options);
}

/**
 * Dequantizes an NF4 matrix to float32 `[rows, cols]`, bit for bit as bitsandbytes does.
 *
 * @throws TfjsLoraError for another format
 */
export function dequantizeNF4(tensor: FourBitTensor, out?: Float32Array): Float32Array {
  return assertType(tensor, 'nf4').dequantize(out);
}

/**
 * Dequantizes an FP4 matrix to float32 `[rows, cols]`, bit for bit as bitsandbytes does.
 *
 * @throws TfjsLoraError for another format
 */
export function dequantizeFP4(tensor: FourBitTensor, out?: Float32Array): Float32Array {
  return assertType(tensor, 'fp4').dequantize(out);
}

function assertType(tensor: FourBitTensor, expected: FourBitType): FourBitTensor {
  if (tensor.quantType === expected) return tensor;
  const got = `expected quantType '${expected}', got '${tensor.quantType}'`;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `Dequantization [quantType]: ${got}. Call its own dequantize().`,
  );
}

/** Number of values that pass through the cache at a time, a multiple of every block size. */
const CHUNK = 4096;

function quantizeFourBit(
  quantType: FourBitType,
  values: SourceValues,
  shape: MatrixShape,
  options: FourBitOptions = {},
): FourBitTensor {
  const {blockSize = 64, doubleQuant = false, torchThreads, absmaxSearch} = options;
  const name = options.name ?? `${quantType} quantization`;
  assertKnownOptions(name, options, FOUR_BIT_OPTIONS);
  const dtype = sourceDtype(values, options.dtype, name);
  assertSource(name, values.length, shape, blockSize);
  const packed = new Uint8Array(Math.ceil(values.length / 2));
  const absmax = new Float32Array(Math.ceil(values.length / blockSize));
  const {entries, codes} = codeSearch(quantType);

  const scratch = new Float32Array(CHUNK);
  const scaled = new Float32Array(CHUNK + 1);
  const scaledWords = new Int32Array(scaled.buffer);
  const word = new Int32Array(1);
  const float = new Float32Array(word.buffer);
  for (let chunk = 0; chunk < values.length; chunk += CHUNK) {
    const source = readSource(values, dtype, chunk, Math.min(chunk + CHUNK, values.length), scratch);
    const words = new Int32Array(source.buffer, source.byteOffset, source.length);
    for (let begin = 0; begin < source.length; begin += blockSize) {
      const end = begin + blockSize;
      const isWhole = end <= source.length;
      word[0] = magnitudeBits(words, begin, isWhole ? end : source.length);
      if (word[0] >= INFINITY_BITS) throw nonFinite(name, source, chunk);
      const scale = Math.max(float[0], SMALLEST_SCALE);
      if (isWhole) {
        absmax[(chunk + begin) / blockSize] = float[0];
        const inverse = Math.fround(1 / scale);
        for (let i = begin; i < end; i++) scaled[i] = source[i] * inverse;
      } else {
        // In a shorter last block, bitsandbytes divides, and stores the floored scale.
        absmax[(chunk + begin) / blockSize] = scale;
        for (let i = begin; i < source.length; i++) scaled[i] = source[i] / scale;
        scaled[source.length] = 0; // fills the last byte when the number of values is odd
      }
    }
    const firstByte = chunk / 2;
    const bytes = Math.ceil(source.length / 2);
    for (let i = 0; i < bytes; i++) {
      const high = scaledWords[2 * i];
      const low = scaledWords[2 * i + 1];
      packed[firstByte + i] =
        (codes[(entries[high >>> 16] + (high & 0xffff)) >>> 16] << 4) |
        codes[(entries[low >>> 16] + (low & 0xffff)) >>> 16];
    }
  }
  return new FourBitTensor({
    quantType,
    shape,
    blockSize,
    packed,
    absmax: doubleQuant ? quantizeAbsmax(absmax, {torchThreads, search: absmaxSearch}) : absmax,
    dtype,
  });
}

function assertSource(name: string, length: number, shape: MatrixShape, blockSize: number): void {
  assertMatrixShape(name, shape);
  const [rows, cols] = shape;
  if (length !== rows * cols) {
    const got = `expected ${rows * cols} values for [${rows}, ${cols}], got ${length}`;
    throw new TfjsLoraError('SHAPE_MISMATCH', `${name} values: ${got}.`);
  }
  if (!FOUR_BIT_BLOCK_SIZES.includes(blockSize)) {
    const got = `expected one of ${FOUR_BIT_BLOCK_SIZES.join(', ')}, got ${blockSize}`;
    throw new TfjsLoraError('INVALID_ARGUMENT', `${name} [blockSize]: ${got}.`);
  }
}

/**
 * Tables that find the code of a float32 without a branch. Its top 16 bits select an entry. The entry plus its low 16
 * bits carries into bit 16 exactly when the value is past the one threshold that its bucket of 65,536 neighbours may
 * contain, and the top half of the sum then indexes `codes`. The thresholds are so far apart that no bucket has two.
 */
interface CodeSearch {
  /** uint32 below 2^22 [65536]. Top half: `2 · pair`. Bottom half: 65,536 less the first low half that carries. */
  entries: Int32Array;
  /** The codes before and after a carry, pair by pair. */
  codes: Uint8Array;
}

const codeSearches = new Map<FourBitType, CodeSearch>();

function codeSearch(quantType: FourBitType): CodeSearch {
  let search = codeSearches.get(quantType);
  if (search === undefined) {
    search = buildCodeSearch(quantType === 'nf4' ? NF4_CODE : FP4_CODE);
    codeSearches.set(quantType, search);
  }
  return search;
}

function buildCodeSearch(numbers: Readonly<Float32Array>): CodeSearch {
  const order = Array.from(numbers.keys()).sort((a, b) => numbers[a] - numbers[b] || a - b);
  const midpoints = order
    .slice(1)
    .map((code, i) => Math.fround(Math.fround(numbers[order[i]] + numbers[code]) / 2));
  const word = new Int32Array(1);
  const float = new Float32Array(word.buffer);
  const codeOf = (bits: number): number => {
    word[0] = bits;
    const value = float[0];
    let below = 0;
    while (below < midpoints.length && value > midpoints[below]) below++;
    return order[below];
  };

  const entries = new Int32Array(65536);
  const codes: number[] = [];
  const pairs = new Map<number, number>();
  for (let top = 0; top < 65536; top++) {
    const first = codeOf(top << 16);
    const last = codeOf((top << 16) | 0xffff);
    const key = first * 16 + last;
    let pair = pairs.get(key);
    if (pair === undefined) {
      pair = pairs.size;
      pairs.set(key, pair);
      codes.push(first, last);
    }
    // The first low half with the second code. Without a second code, no sum carries.
    let from = 0x10000;
    if (first !== last) {
      let below = 0;
      for (from = 0xffff; from - below > 1; ) {
        const middle = (below + from) >>> 1;
        if (codeOf((top << 16) | middle) === first) below = middle;
        else from = middle;
      }
    }
    entries[top] = pair * 0x20000 + (0x10000 - from);
  }
  return {entries, codes: Uint8Array.from(codes)};
}
