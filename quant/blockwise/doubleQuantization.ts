import {TfjsLoraError} from '../errors.ts';
import {assertKnownOptions, type OptionNames} from '../knownOptions.ts';
import {dynamicMap} from './codebooks.ts';
import {type CodeSearch8Bit, quantizeBlockwise} from './dynamic8Bit.ts';
import {torchMean} from './torchMean.ts';

/** Number of blocks whose scales share a nested scale, as in bitsandbytes. */
export const NESTED_BLOCK_SIZE = 256;

/** The scales of 4-bit blocks in 8 bits: `map[quantized[i]] · nestedAbsmax[i / nestedBlockSize] + offset`. */
export interface NestedAbsmax {
  /** One code per block, an index into `map`. */
  quantized: Uint8Array;
  /** float32 [ceil(blocks / nestedBlockSize)] */
  nestedAbsmax: Float32Array;
  /** The scales' mean, a float32 number. */
  offset: number;
  /** 256 in everything bitsandbytes writes. */
  nestedBlockSize: number;
  /** float32 [256], the signed dynamic map; kept because each file has its own. */
  map: Float32Array;
}

export interface DoubleQuantOptions {
  /** Default `nearest`. */
  search?: CodeSearch8Bit;
  /** See {@link torchMean}; matters from 32,768 scales on. Default 1. */
  torchThreads?: number;
}
const DOUBLE_QUANT_OPTIONS = {
  search: true,
  torchThreads: true,
} satisfies OptionNames<DoubleQuantOptions>;

/**
 * Quantizes scales (QLoRA's double quantization): subtracts their mean and quantizes blocks of 256 with the signed
 * dynamic map. Bit-exact with bitsandbytes' `compress_statistics`: its portable kernel by default, its native CPU
 * kernel (0.50) with `search: 'table'`. The first is more accurate; files of both load the same way.
 */
export function quantizeAbsmax(absmax: Float32Array, options: DoubleQuantOptions = {}): NestedAbsmax {
  assertKnownOptions('quantizeAbsmax', options, DOUBLE_QUANT_OPTIONS);
  const {search = 'nearest', torchThreads = 1} = options;
  const offset = absmax.length === 0 ? 0 : torchMean(absmax, torchThreads);
  const map = dynamicMap(true);
  const centred = absmax.map((value) => value - offset);
  const {codes, absmax: nestedAbsmax} = quantizeBlockwise(centred, {
    map,
    blockSize: NESTED_BLOCK_SIZE,
    search,
    name: 'double quantization of absmax',
  });
  return {quantized: codes, nestedAbsmax, offset, nestedBlockSize: NESTED_BLOCK_SIZE, map};
}

/**
 * Returns the scales of blocks `begin` to `end`, float32.
 *
 * @param out receives them; a new array by default
 * @throws TfjsLoraError `SHAPE_MISMATCH` when `out` has another length
 */
export function dequantizeAbsmax(
  {quantized, nestedAbsmax, offset, nestedBlockSize, map}: NestedAbsmax,
  begin = 0,
  end = quantized.length,
  out: Float32Array = new Float32Array(end - begin),
): Float32Array {
  if (out.length !== end - begin) {
    const got = `expected ${end - begin} values, got ${out.length}`;
    throw new TfjsLoraError('SHAPE_MISMATCH', `dequantizeAbsmax out: ${got}.`);
  }
  for (let i = begin; i < end; i++) {
    out[i - begin] = Math.fround(map[quantized[i]] * nestedAbsmax[Math.floor(i / nestedBlockSize)]) + offset;
  }
  return out;
}
