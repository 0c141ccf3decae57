import {FP4_CODE, NF4_CODE} from './blockwise/codebooks.ts';
import {dequantizeAbsmax, type NestedAbsmax} from './blockwise/doubleQuantization.ts';
import {TfjsLoraError} from './errors.ts';
import {roundInPlace, type StorageDtype} from './float16.ts';
import {assertMatrixShape, type MatrixShape, type QuantizedTensor, rowsTarget} from './quantizedTensor.ts';

export interface FourBitTensorParts {
  quantType: 'nf4' | 'fp4';
  shape: MatrixShape;
  /** Values that share a scale. */
  blockSize: number;
  /** [ceil(rows · cols / 2)]: element 2i in the high half of byte i, element 2i + 1 in the low half. */
  packed: Uint8Array;
  /** One scale per block, in float32 or double-quantized. */
  absmax: Float32Array | NestedAbsmax;
  /** Dtype before quantization. Dequantized values are rounded to it, as in bitsandbytes. */
  dtype: StorageDtype;
}

/**
 * A 4-bit weight matrix as bitsandbytes stores it. Blocks run over the row-major values, so a row may begin inside a
 * block, or even in the middle of a byte.
 */
export class FourBitTensor implements QuantizedTensor {
  readonly quantType: 'nf4' | 'fp4';
  readonly shape: MatrixShape;
  readonly blockSize: number;
  readonly packed: Uint8Array;
  readonly absmax: Float32Array | NestedAbsmax;
  readonly dtype: StorageDtype;

  /** @throws TfjsLoraError `SHAPE_MISMATCH` when `packed` or `absmax` do not fit `shape` and `blockSize` */
  constructor({quantType, shape, blockSize, packed, absmax, dtype}: FourBitTensorParts) {
    assertMatrixShape(`FourBitTensor ${quantType}`, shape);
    const elements = shape[0] * shape[1];
    const blocks = Math.ceil(elements / blockSize);
    assertLength('packed', packed.length, Math.ceil(elements / 2));
    if (absmax instanceof Float32Array) {
      assertLength('absmax', absmax.length, blocks);
    } else {
      assertLength('absmax.quantized', absmax.quantized.length, blocks);
      const nestedBlocks = Math.ceil(blocks / absmax.nestedBlockSize);
      assertLength('absmax.nestedAbsmax', absmax.nestedAbsmax.length, nestedBlocks);
      assertLength('absmax.map', absmax.map.length, 256);
    }
    this.quantType = quantType;
    this.shape = shape;
    this.blockSize = blockSize;
    this.packed = packed;
    this.absmax = absmax;
    this.dtype = dtype;
  }

  /** Whether the scales are quantized too. */
  get isDoubleQuantized(): boolean {
    return !(this.absmax instanceof Float32Array);
  }

  /** The 16 values of the codes. */
  get code(): Readonly<Float32Array> {
    return this.quantType === 'nf4' ? NF4_CODE : FP4_CODE;
  }

  /** Bytes of codes and scales; the code books, one for the whole library, are not counted. */
  get byteLength(): number {
    const {absmax} = this;
    const scales =
      absmax instanceof Float32Array
        ? absmax.byteLength
        : absmax.quantized.byteLength + absmax.nestedAbsmax.byteLength + 4;
    return this.packed.byteLength + scales;
  }

  /** Returns the float32 scales of all blocks: the stored array, or a new one from the double-quantized scales. */
  blockScales(): Float32Array {
    return this.absmax instanceof Float32Array ? this.absmax : dequantizeAbsmax(this.absmax);
  }

  /** @inheritDoc */
  dequantize(out?: Float32Array): Float32Array {
    return this.dequantizeRows(0, this.shape[0], out);
  }

  /** Dequantizes rows bit-exactly as bitsandbytes dequantizes the whole matrix to its `dtype`, widened to float32. */
  dequantizeRows(begin: number, end: number, out?: Float32Array): Float32Array {
    const values = rowsTarget('dequantizeRows', this.shape, begin, end, out);
    const first = begin * this.shape[1];
    const last = end * this.shape[1];
    if (first === last) return values;
    const firstBlock = Math.floor(first / this.blockSize);
    const scales = this.scalesBetween(firstBlock, Math.ceil(last / this.blockSize));
    for (let block = 0; block < scales.length; block++) {
      const blockBegin = (firstBlock + block) * this.blockSize;
      const from = Math.max(first, blockBegin);
      this.fill(values, from - first, from, Math.min(last, blockBegin + this.blockSize), scales[block]);
    }
    return roundInPlace(values, this.dtype);
  }

  private scalesBetween(begin: number, end: number): Float32Array {
    const {absmax} = this;
    return absmax instanceof Float32Array
      ? absmax.subarray(begin, end)
      : dequantizeAbsmax(absmax, begin, end);
  }

  /** Writes elements `begin` to `end`, which share `scale`, into `values` from `at` on. */
  private fill(values: Float32Array, at: number, begin: number, end: number, scale: number): void {
    const {packed, code} = this;
    let i = begin;
    let to = at;
    if (i % 2 === 1 && i < end) {
      values[to++] = code[packed[(i - 1) / 2] & 15] * scale;
      i++;
    }
    // Not `>>> 1`: an element's index may exceed 32 bits.
    let byte = i / 2;
    for (; i + 1 < end; i += 2) {
      const pair = packed[byte++];
      values[to++] = code[pair >>> 4] * scale;
      values[to++] = code[pair & 15] * scale;
    }
    if (i < end) values[to] = code[packed[byte] >>> 4] * scale;
  }
}

function assertLength(what: string, length: number, expected: number): void {
  if (length !== expected) {
    const got = `expected ${expected} values, got ${length}`;
    throw new TfjsLoraError('SHAPE_MISMATCH', `FourBitTensor ${what}: ${got}.`);
  }
}
