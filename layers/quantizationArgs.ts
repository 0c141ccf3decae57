import type {StorageDtype} from '../quant/float16.ts';

/** How a weight is quantized; what a quantizer of your own needs beyond this passes through to it. */
export interface QuantizationArgs {
  /** `nf4`, `fp4`, `int8`, or the name of a registered quantizer. */
  type: 'nf4' | 'fp4' | 'int8' | (string & {});
  /** Values that share a scale, 4-bit types only. Default 64. */
  blockSize?: number;
  /** Quantize the scales too, 4-bit types only: 4.127 bits a weight instead of 4.5. Default false, as in bitsandbytes. */
  doubleQuant?: boolean;
  /** Columns with a magnitude of at least this stay in 16 bit, int8 only. Default 0: none. */
  threshold?: number;
  /** The type of a product's operands where a backend offers a choice; the others compute in float32. */
  computeDtype?: StorageDtype;
  [option: string]: unknown;
}
