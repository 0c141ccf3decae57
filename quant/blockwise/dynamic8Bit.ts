import {TfjsLoraError} from '../errors.ts';
import type {StorageDtype} from '../float16.ts';
import {assertKnownOptions, type OptionNames} from '../knownOptions.ts';
import {dynamicMap} from './codebooks.ts';
import {
  INFINITY_BITS,
  magnitudeBits,
  nonFinite,
  readSource,
  type SourceValues,
  sourceDtype,
} from './sourceValues.ts';

/**
 * Method that finds a value's code. bitsandbytes 0.50 has two, whose codes differ where a value is far below its
 * block's largest: `table` rounds the value to one of 65,536 steps first and takes the map value nearest to the step,
 * as its native CPU kernel does; `nearest` takes the map value nearest to the value itself, the lower one at a tie, as
 * its portable kernel does.
 */
export type CodeSearch8Bit = 'table' | 'nearest';

export interface Blockwise8BitOptions {
  /** Default `table`. */
  search?: CodeSearch8Bit;
  /** 256 ascending values in [−1, 1], by default the signed {@link dynamicMap}. */
  map?: Float32Array;
  /** Values that share a scale, default 256. */
  blockSize?: number;
  /** Required when the values are 16-bit bits. */
  dtype?: StorageDtype;
  /** The tensor, for messages. */
  name?: string;
  /** Arrays that receive the result, so that an optimizer step allocates nothing. */
  codes?: Uint8Array;
  absmax?: Float32Array;
}
const BLOCKWISE_OPTIONS = {
  search: true,
  map: true,
  blockSize: true,
  dtype: true,
  name: true,
  codes: true,
  absmax: true,
} satisfies OptionNames<Blockwise8BitOptions>;

export interface Blockwise8Bit {
  /** One code per value. */
  codes: Uint8Array;
  /** float32 [ceil(values / blockSize)]: the largest magnitude of each block. */
  absmax: Float32Array;
}

/** Number of entries in the table that a normalised value indexes. */
const TABLE_SIZE = 65536;

/** bitsandbytes' floor under a scale before it is inverted, so that zeros stay zeros. */
export const SMALLEST_SCALE = Math.fround(1e-38);

/**
 * Quantizes values to 8-bit codes of `map`, block by block, after dividing each by its block's largest magnitude.
 * Bit-exact with bitsandbytes' `quantize_blockwise` on CPU, with either {@link CodeSearch8Bit}. A block of zeros has
 * scale 0; its codes are all 0 with `table`, and the code of the value 0 with `nearest`. Both dequantize to zeros.
 *
 * @throws TfjsLoraError `NON_FINITE` naming the tensor; `INVALID_ARGUMENT` for an impossible block size, map or dtype;
 *   `SHAPE_MISMATCH` when `codes` or `absmax` has another length
 */
export function quantizeBlockwise(values: SourceValues, options: Blockwise8BitOptions = {}): Blockwise8Bit {
  assertKnownOptions('quantizeBlockwise', options, BLOCKWISE_OPTIONS);
  const {map = dynamicMap(), blockSize = 256, name = 'quantizeBlockwise', search = 'table'} = options;
  assertSearch(name, search);
  const dtype = sourceDtype(values, options.dtype, name);
  assertBlockwise(name, map, blockSize);
  const blocks = Math.ceil(values.length / blockSize);
  const {codes = new Uint8Array(values.length), absmax = new Float32Array(blocks)} = options;
  assertLength(`${name} codes`, codes.length, values.length);
  assertLength(`${name} absmax`, absmax.length, blocks);
  const encode = search === 'table' ? encodeByTable : encodeNearest;
  const tables = codeTables(map);
  const scratch = new Float32Array(values instanceof Float32Array ? 0 : Math.min(blockSize, values.length));
  const word = new Int32Array(1);
  const float = new Float32Array(word.buffer);
  for (let block = 0; block < blocks; block++) {
    const begin = block * blockSize;
    const end = Math.min(begin + blockSize, values.length);
    const source = readSource(values, dtype, begin, end, scratch);
    const words = new Int32Array(source.buffer, source.byteOffset, source.length);
    word[0] = magnitudeBits(words, 0, words.length);
    if (word[0] >= INFINITY_BITS) throw nonFinite(name, source, begin);
    absmax[block] = encode(source, float[0], source.length === blockSize, tables, codes, begin);
  }
  return {codes, absmax};
}

/** Writes one block's codes from `at` on. @returns the scale to store */
type EncodeBlock = (
  source: Float32Array,
  largest: number,
  isWhole: boolean,
  tables: CodeTables,
  codes: Uint8Array,
  at: number,
) => number;

const encodeByTable: EncodeBlock = (source, largest, _isWhole, {steps}, codes, at) => {
  if (largest === 0) {
    codes.fill(0, at, at + source.length);
    return 0;
  }
  const inverse = Math.fround(1 / largest);
  for (let i = 0; i < source.length; i++) {
    let normal = Math.fround(source[i] * inverse);
    if (normal > 1) normal = 1;
    else if (normal < -1) normal = -1;
    // The product and sum are exact in float64, so they round once, as a fused multiply-add does. A zero times the
    // infinite reciprocal of a subnormal scale is NaN, which `| 0` turns into step 0, as the peer's CPU does.
    codes[at + i] = steps[Math.fround(Math.fround(normal + 1) * 0.5 * 65535 + 0.5) | 0];
  }
  return largest;
};

const encodeNearest: EncodeBlock = (source, largest, isWhole, {midpoints}, codes, at) => {
  const scale = Math.max(largest, SMALLEST_SCALE);
  const inverse = Math.fround(1 / scale);
  for (let i = 0; i < source.length; i++) {
    // In a shorter last block, the portable kernel divides, and stores the floored scale.
    const normal = Math.fround(isWhole ? source[i] * inverse : source[i] / scale);
    let code = 0;
    for (let half = 128; half > 0; half >>= 1) if (normal > midpoints[code + half - 1]) code += half;
    codes[at + i] = code;
  }
  return isWhole ? largest : scale;
};

/**
 * Dequantizes codes to `map[code] · absmax`, float32, bit for bit as bitsandbytes' `dequantize_blockwise` does.
 *
 * @param out receives the values; a new array by default
 * @throws TfjsLoraError `INVALID_ARGUMENT`, `SHAPE_MISMATCH` as {@link quantizeBlockwise}
 */
export function dequantizeBlockwise(
  {codes, absmax}: Blockwise8Bit,
  options: Pick<Blockwise8BitOptions, 'map' | 'blockSize'> = {},
  out: Float32Array = new Float32Array(codes.length),
): Float32Array {
  assertKnownOptions('dequantizeBlockwise', options, BLOCKWISE_OPTIONS); // one options object may serve both calls
  const {map = dynamicMap(), blockSize = 256} = options;
  assertBlockwise('dequantizeBlockwise', map, blockSize);
  assertLength('dequantizeBlockwise absmax', absmax.length, Math.ceil(codes.length / blockSize));
  assertLength('dequantizeBlockwise out', out.length, codes.length);
  for (let block = 0, i = 0; block < absmax.length; block++) {
    const scale = absmax[block];
    for (const end = Math.min(i + blockSize, codes.length); i < end; i++) out[i] = map[codes[i]] * scale;
  }
  return out;
}

function assertSearch(name: string, search: CodeSearch8Bit): void {
  if (search === 'table' || search === 'nearest') return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${name} [search]: expected 'table' or 'nearest', got '${search}'.`,
  );
}

interface CodeTables {
  /** float32 [255], halfway between neighbours of the map. A value's code is the number of midpoints below it. */
  midpoints: Float32Array;
  /** The code of each of 65,536 even steps from −1 to 1. */
  steps: Uint8Array;
}

/** Returns the code that `table` gives each even step from −1 to 1, uint8 [65,536]. Do not write into the array. */
export function codesOfSteps(map: Float32Array): Uint8Array {
  return codeTables(map).steps;
}

const tablesOfMaps = new WeakMap<Float32Array, CodeTables>();

function codeTables(map: Float32Array): CodeTables {
  let tables = tablesOfMaps.get(map);
  if (tables === undefined) {
    const midpoints = Float32Array.from({length: 255}, (_, i) => Math.fround(map[i] + map[i + 1]) * 0.5);
    const steps = new Uint8Array(TABLE_SIZE);
    for (let step = 0, code = 0; step < TABLE_SIZE; step++) {
      const value = Math.fround(Math.fround((2 * step) / (TABLE_SIZE - 1)) - 1);
      while (code < 255 && value > midpoints[code]) code++;
      steps[step] = code;
    }
    tables = {midpoints, steps};
    tablesOfMaps.set(map, tables);
  }
  return tables;
}

function assertBlockwise(what: string, map: Float32Array, blockSize: number): void {
  if (!Number.isSafeInteger(blockSize) || blockSize < 1) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${what} [blockSize]: expected at least 1, got ${blockSize}.`,
    );
  }
  if (map.length !== 256) {
    throw new TfjsLoraError('INVALID_ARGUMENT', `${what} [map]: expected 256 values, got ${map.length}.`);
  }
}

function assertLength(what: string, length: number, expected: number): void {
  if (length !== expected) {
    throw new TfjsLoraError('SHAPE_MISMATCH', `${what}: expected ${expected} values, got ${length}.`);
  }
}
