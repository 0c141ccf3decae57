import type {CodeSearch8Bit} from '../quant/blockwise/dynamic8Bit.ts';
import {TfjsLoraError} from '../quant/errors.ts';
import type {StorageDtype} from '../quant/float16.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import {getQuantizer} from '../quant/quantizerRegistry.ts';

/** `nf4`, `fp4`, `int8`, or the name of a registered quantizer. */
export type QuantizationType = 'nf4' | 'fp4' | 'int8' | (string & {});

/** How a weight is quantized; what a quantizer of your own needs beyond this passes through to it. */
export interface QuantizationArgs {
  type: QuantizationType;
  /** Values that share a scale, 4-bit types only. Default 64. */
  blockSize?: number;
  /** Quantize the scales too, 4-bit types only: 4.127 bits a weight instead of 4.5. Default false, as in bitsandbytes. */
  doubleQuant?: boolean;
  /**
   * How double quantization finds the scales' codes: `nearest`, as bitsandbytes' portable kernel, or `table`, as its native
   * kernel on processors. Default `nearest`.
   */
  absmaxSearch?: CodeSearch8Bit;
  /** Threads of the PyTorch whose mean of the scales double quantization repeats bit for bit. Default 1. */
  torchThreads?: number;
  /** Columns with a magnitude of at least this stay in 16 bit, int8 only. Default 0: none. */
  threshold?: number;
  /** The type of a product's operands where a backend offers a choice; the others compute in float32. */
  computeDtype?: StorageDtype;
  [option: string]: unknown;
}

const FOUR_BIT_OPTIONS = {
  blockSize: true,
  doubleQuant: true,
  absmaxSearch: true,
  torchThreads: true,
} as const;
const INT8_OPTIONS = {threshold: true} as const;
/** What the built-in types take; a registered quantizer's options are its own matter. */
const OPTIONS = {type: true, ...FOUR_BIT_OPTIONS, ...INT8_OPTIONS, computeDtype: true} satisfies OptionNames<
  Pick<QuantizationArgs, 'type' | keyof typeof FOUR_BIT_OPTIONS | keyof typeof INT8_OPTIONS | 'computeDtype'>
>;

/**
 * The settings that `quantization` stands for; a name alone is its type.
 *
 * @param call what was called, for messages
 * @param more further options that the call takes
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown type, or an option that the type does not have
 */
export function resolveQuantization<T extends QuantizationArgs>(
  call: string,
  given: T | QuantizationType,
  more: OptionNames<object> = {},
): T {
  const args = (typeof given === 'string' ? {type: given} : given) as T;
  assertObject(call, args);
  getQuantizer(args.type);
  const others = {nf4: INT8_OPTIONS, fp4: INT8_OPTIONS, int8: FOUR_BIT_OPTIONS}[args.type as string];
  if (others === undefined) return args;
  assertKnownOptions(call, args, {...OPTIONS, ...more});
  for (const name of Object.keys(others)) {
    if (args[name] === undefined || args[name] === false) continue;
    const type = args.type === 'int8' ? 'nf4 or fp4' : 'int8';
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${call} ${name}: expected it for type ${type} alone, got it for ${args.type}. Leave it out.`,
    );
  }
  return args;
}

function assertObject(call: string, args: unknown): void {
  const {type} = (typeof args === 'object' && args !== null ? args : {}) as Partial<QuantizationArgs>;
  if (typeof type === 'string') return;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${call} type: expected nf4, fp4, int8 or a registered quantizer, got ${type === undefined ? 'none' : `a ${typeof type}`}. ` +
      "Pass {type: 'nf4'}.",
  );
}
