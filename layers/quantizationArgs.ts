import type {CodeSearch8Bit} from '../quant/blockwise/dynamic8Bit.ts';
import {TfjsLoraError} from '../quant/errors.ts';
import type {StorageDtype} from '../quant/float16.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import {getQuantizer} from '../quant/quantizerRegistry.ts';
import {show} from '../quant/show.ts';

/** `nf4`, `fp4`, `int8`, or the name of a registered quantizer. */
export type QuantizationType = 'nf4' | 'fp4' | 'int8' | (string & {});

/** Settings for quantizing a weight. Further options are passed to a registered quantizer. */
export interface QuantizationArgs {
  type: QuantizationType;
  /** Number of values that share a scale, 4-bit types only. Default 64. */
  blockSize?: number;
  /**
   * Whether to quantize the scales too, 4-bit types only: 4.127 bits per weight instead of 4.5. Default false, as in
   * bitsandbytes.
   */
  doubleQuant?: boolean;
  /**
   * How double quantization finds the codes of scales: `nearest`, as bitsandbytes' portable kernel does, or `table`, as
   * its native CPU kernel does. Default `nearest`.
   */
  absmaxSearch?: CodeSearch8Bit;
  /**
   * Number of threads of the PyTorch whose mean of the scales double quantization reproduces bit for bit. Default 1.
   */
  torchThreads?: number;
  /** Columns with a magnitude of at least this stay in 16 bits, int8 only. Default 0: none. */
  threshold?: number;
  /** The type of a product's operands on backends that offer a choice; the others compute in float32. */
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
/** The options of the built-in types; a registered quantizer has its own. */
const OPTIONS = {type: true, ...FOUR_BIT_OPTIONS, ...INT8_OPTIONS, computeDtype: true} satisfies OptionNames<
  Pick<QuantizationArgs, 'type' | keyof typeof FOUR_BIT_OPTIONS | keyof typeof INT8_OPTIONS | 'computeDtype'>
>;

/**
 * Returns the settings that `quantization` stands for; a name alone is the type.
 *
 * @param call the name of the call, for messages
 * @param more further options of the call
 * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown type, or an option that the type does not have
 */
export function resolveQuantization<T extends QuantizationArgs>(
  call: string,
  given: T | QuantizationType,
  more: OptionNames<object> = {},
): T {
  const args = (typeof given === 'string' ? {type: given} : given) as T;
  assertObject(call, args, {...OPTIONS, ...more});
  getQuantizer(args.type);
  const others = {nf4: INT8_OPTIONS, fp4: INT8_OPTIONS, int8: FOUR_BIT_OPTIONS}[args.type as string];
  if (others === undefined) return args;
  assertKnownOptions(call, args, {...OPTIONS, ...more});
  for (const name of Object.keys(others)) {
    if (args[name] === undefined || args[name] === false) continue;
    const type = args.type === 'int8' ? 'nf4 or fp4' : 'int8';
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${call} ${name}: expected only with type ${type}, got type ${args.type}. Leave it out.`,
    );
  }
  return args;
}

function assertObject(call: string, args: unknown, known: OptionNames<object>): void {
  const isObject = typeof args === 'object' && args !== null;
  const {type} = (isObject ? args : {}) as Partial<QuantizationArgs>;
  if (typeof type === 'string') return;
  if (isObject && type === undefined) assertKnownOptions(call, args, known); // another library's spelling of the type
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${call} type: expected nf4, fp4, int8 or a registered quantizer, got ${
      isObject ? (type === undefined ? 'none' : `a ${typeof type}`) : show(args)
    }. Pass {type: 'nf4'}.`,
  );
}
