import {Dense} from '../layers/dense.ts';
import {walk} from '../layers/moduleLayer.ts';
import type {QuantizationArgs} from '../layers/quantizationArgs.ts';
import {QuantizedDense} from '../layers/quantizedDense.ts';
import {TfjsLoraError} from '../quant/errors.ts';
import type {StorageDtype} from '../quant/float16.ts';
import {show} from '../quant/show.ts';
import type {QuantizationOptions} from './quantization.ts';
import type {LayeredModel} from './replaceLayer.ts';

type Json = Record<string, unknown>;

const COMPUTE_DTYPES: readonly unknown[] = ['float32', 'float16', 'bfloat16'];

/**
 * What `quantization_config` of a `config.json` says, which transformers writes for bitsandbytes.
 *
 * @param where the file, for messages
 * @throws TfjsLoraError `UNSUPPORTED` for another method, `INVALID_CONFIG` for a value that cannot be
 */
export function parseQuantizationConfig(json: unknown, where: string): QuantizationOptions | undefined {
  if (json == null) return undefined;
  const config = json as Json;
  const wrong = (key: string, expected: string) =>
    new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} quantization_config.${key}: expected ${expected}, got ${show(config[key])}`,
    );
  if (config.quant_method !== 'bitsandbytes') {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where} quantization_config.quant_method: expected "bitsandbytes", got ${show(config.quant_method)}. ` +
        'Load the unquantized checkpoint, and quantize it here if you like.',
    );
  }
  const skipModules = (config.llm_int8_skip_modules as string[] | null | undefined) ?? undefined;
  if (skipModules && !(Array.isArray(skipModules) && skipModules.every((name) => typeof name === 'string')))
    throw wrong('llm_int8_skip_modules', 'a list of names');
  const skip = skipModules ? {skipModules} : {};
  if (config.load_in_8bit === true) return {type: 'int8', ...skip};
  if (config.load_in_4bit !== true) throw wrong('load_in_4bit', 'true, or load_in_8bit true');
  const type = config.bnb_4bit_quant_type ?? 'fp4'; // transformers' default
  if (type !== 'nf4' && type !== 'fp4') throw wrong('bnb_4bit_quant_type', '"nf4" or "fp4"');
  const computeDtype = config.bnb_4bit_compute_dtype ?? 'float32';
  if (!COMPUTE_DTYPES.includes(computeDtype))
    throw wrong('bnb_4bit_compute_dtype', 'float32, float16 or bfloat16');
  return {
    type,
    doubleQuant: config.bnb_4bit_use_double_quant === true,
    computeDtype: computeDtype as StorageDtype,
    ...skip,
  };
}

/**
 * What holds for a folder: as its weights are stored, or as the caller wants them quantized.
 *
 * @throws TfjsLoraError `UNSUPPORTED` when the two disagree
 */
export function reconcileQuantization(
  stored: QuantizationOptions | undefined,
  wanted: QuantizationOptions | undefined,
  where: string,
): QuantizationOptions | undefined {
  if (!stored || !wanted) return stored ?? wanted;
  const {computeDtype = stored.computeDtype} = wanted;
  if (wanted.type === stored.type) return {...stored, computeDtype};
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `${where} quantization: expected an unquantized checkpoint to quantize to ${wanted.type}, got one in ` +
      `${stored.type}. Load it as it is, without the option, or start from the 16-bit checkpoint.`,
  );
}

/** `quantization_config` for the layers of a model that are quantized; undefined when none is. */
export function formatQuantizationConfig(model: LayeredModel): Json | undefined {
  const quantized = new Map<string, QuantizationArgs>();
  const plain = new Set([model.lm_head.name]);
  for (const layer of walk(model.layers)) {
    if (layer instanceof QuantizedDense) quantized.set(layer.name, layer.quantization);
    else if (layer instanceof Dense) plain.add(layer.name);
  }
  if (quantized.size === 0) return undefined;
  const types = new Set([...quantized.values()].map(({type}) => type));
  const [type] = types;
  if (types.size > 1 || !['nf4', 'fp4', 'int8'].includes(type)) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `save quantization: expected one of nf4, fp4 and int8 throughout, got ${[...types].join(', ')}, which ` +
        'bitsandbytes has no checkpoint for. Pass {dequantize: true}.',
    );
  }
  const [{computeDtype = 'float32', doubleQuant = false}] = quantized.values();
  const isInt8 = type === 'int8';
  // llm_int8_threshold is left at its default: Python wants a float there, and JSON from here says 6 for 6.0.
  return {
    _load_in_4bit: !isInt8,
    _load_in_8bit: isInt8,
    bnb_4bit_compute_dtype: computeDtype,
    bnb_4bit_quant_storage: 'uint8',
    bnb_4bit_quant_type: isInt8 ? 'fp4' : type,
    bnb_4bit_use_double_quant: doubleQuant,
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
    llm_int8_skip_modules: [...plain].filter((name) => !quantized.has(name)),
    load_in_4bit: !isInt8,
    load_in_8bit: isInt8,
    quant_method: 'bitsandbytes',
  };
}
