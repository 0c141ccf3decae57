import {walk} from '../layers/moduleLayer.ts';
import type {QuantizationArgs} from '../layers/quantizationArgs.ts';
import {QuantizedDense} from '../layers/quantizedDense.ts';
import {TransposedDense} from '../layers/transposedDense.ts';
import type {TensorSource} from '../quant/bitsandbytesState.ts';
import {TfjsLoraError} from '../quant/errors.ts';
import type {StorageDtype} from '../quant/float16.ts';
import {getQuantizer, isBitsandbytesType, savableQuantizers} from '../quant/quantizerRegistry.ts';
import {show} from '../quant/show.ts';
import {warn} from '../quant/warn.ts';
import {declareQuantized, declareStored, type QuantizationOptions, quantizedLayers} from './quantization.ts';
import type {LayeredModel} from './replaceLayer.ts';
import {skipsModule} from './skipsModule.ts';

type Json = Record<string, unknown>;

const COMPUTE_DTYPES: readonly unknown[] = ['float32', 'float16', 'bfloat16'];

/** The key of transformers under which most methods list the modules that are not quantized. */
const SKIPPED = 'modules_to_not_convert';

/** Returns the types that model files can store. */
const savableTypes = () => savableQuantizers().map(({name}) => name);

/**
 * Reads the `quantization_config` of a `config.json`, which transformers writes for bitsandbytes, and this library for
 * a registered quantizer that has `files`.
 *
 * @param where the file, for messages
 * @throws TfjsLoraError `UNSUPPORTED` for another method, `INVALID_CONFIG` for an impossible value
 */
export function parseQuantizationConfig(json: unknown, where: string): QuantizationOptions | undefined {
  if (json == null) return undefined;
  const config = json as Json;
  const wrong = (key: string, expected: string) =>
    new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} quantization_config.${key}: expected ${expected}, got ${show(config[key])}`,
    );
  const skipped = (key: string): {skipModules?: string[]} => {
    const names = config[key] ?? undefined;
    if (names === undefined) return {};
    if (Array.isArray(names) && names.every((name) => typeof name === 'string')) return {skipModules: names};
    throw wrong(key, 'a list of names');
  };
  const {quant_method: method} = config;
  if (method !== 'bitsandbytes') {
    const types = savableTypes().filter((type) => !isBitsandbytesType(type));
    if (typeof method === 'string' && types.includes(method)) {
      const {assertConfig} = getQuantizer(method).files ?? {};
      if (assertConfig) {
        assertConfig(config, `${where} quantization_config`);
        return {...config, type: method};
      }
      const {quant_method: _, [SKIPPED]: _skipped, ...options} = config;
      return {...options, type: method, ...skipped(SKIPPED)};
    }
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where} quantization_config.quant_method: expected ${['bitsandbytes', ...types].map(show).join(' or ')}, ` +
        `got ${show(method)}. Load the unquantized files, and quantize it here if you like.`,
    );
  }
  const skip = skipped('llm_int8_skip_modules');
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
 * Declares linear layers of a model as quantized, before they are filled from files. In a quantized model, the files
 * determine the layers and their types, regardless of the list in the config; another is quantized as the caller wants.
 *
 * @param stored quantization in the config
 * @param wanted quantization that the caller wants
 * @param where the config, for messages
 * @throws TfjsLoraError `UNSUPPORTED` when the caller wants another type than the files have
 */
export function declareQuantization(
  model: LayeredModel,
  files: TensorSource,
  stored: QuantizationOptions | undefined,
  wanted: QuantizationOptions | undefined,
  where: string,
): void {
  const computeDtype = wanted?.computeDtype ?? stored?.computeDtype;
  if (declareStored(model, files, {...stored, computeDtype})) {
    if (wanted) assertStoredAs(model, wanted, where);
    return;
  }
  if (stored) {
    warn(
      `${where} quantization_config: expected weights in ${stored.type}, got no quantized weight. ` +
        (wanted ? `They are quantized to ${wanted.type} now.` : 'They are loaded as they are.'),
    );
  }
  if (wanted) declareQuantized(model, wanted);
}

/** Refuses to quantize a model again to another type, and warns about other options, which have no effect. */
function assertStoredAs(model: LayeredModel, wanted: QuantizationOptions, where: string): void {
  const layers = [...quantizedLayers(model)];
  const other = layers.find(({quantization}) => quantization.type !== wanted.type);
  if (other) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where} quantization: expected an unquantized model to quantize to ${wanted.type}, got one in ` +
        `${other.quantization.type}. Load it as it is, without the option, or start from the 16-bit model.`,
    );
  }
  const {type, computeDtype, doubleQuant, skipModules, ...settings} = wanted;
  const isSkipped = skipsModule(skipModules ?? [], 'skipModules');
  const ignored = [
    ...Object.keys(settings).filter((name) => settings[name] !== undefined),
    ...(doubleQuant === undefined ||
    layers.every(({quantization}) => quantization.doubleQuant === doubleQuant)
      ? []
      : ['doubleQuant']),
    ...(layers.some(({name}) => isSkipped(name)) ? ['skipModules'] : []),
  ];
  if (ignored.length === 0) return;
  warn(
    `${where} quantization: the model is already quantized and is loaded as it is, ignoring ` +
      `${ignored.join(', ')}. To change it, start from the 16-bit model.`,
  );
}

/** Makes the `quantization_config` for a model's quantized layers; undefined when there are none. */
export function formatQuantizationConfig(model: LayeredModel): Json | undefined {
  const quantized = new Map<string, QuantizationArgs>();
  const plain = new Set(model.lm_head && [model.lm_head.name]);
  for (const layer of walk(model.layers)) {
    if (layer instanceof QuantizedDense) quantized.set(layer.name, layer.quantization);
    else if (layer instanceof TransposedDense) plain.add(layer.name);
  }
  if (quantized.size === 0) return undefined;
  const types = new Set([...quantized.values()].map(({type}) => type));
  const [type] = types;
  if (types.size > 1 || !savableTypes().includes(type)) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `save quantization: expected one of ${savableTypes().join(', ')} throughout, got ${[...types].join(', ')}. ` +
        'They cannot be stored in one model. Pass {dequantize: true}.',
    );
  }
  const notConverted = [...plain].filter((name) => !quantized.has(name));
  const [{type: _, computeDtype = 'float32', ...options}] = quantized.values();
  if (getQuantizer(type).files?.assertConfig) return {...options, quant_method: type};
  if (!isBitsandbytesType(type)) return {quant_method: type, ...options, [SKIPPED]: notConverted};
  const {doubleQuant = false} = options;
  const isInt8 = type === 'int8';
  // llm_int8_threshold is left at its default, because Python expects a float there, and our JSON says 6 for 6.0.
  return {
    _load_in_4bit: !isInt8,
    _load_in_8bit: isInt8,
    bnb_4bit_compute_dtype: computeDtype,
    bnb_4bit_quant_storage: 'uint8',
    bnb_4bit_quant_type: isInt8 ? 'fp4' : type,
    bnb_4bit_use_double_quant: doubleQuant,
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
    llm_int8_skip_modules: notConverted,
    load_in_4bit: !isInt8,
    load_in_8bit: isInt8,
    quant_method: 'bitsandbytes',
  };
}
