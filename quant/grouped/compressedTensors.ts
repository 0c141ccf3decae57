import {TfjsLoraError} from '../errors.ts';
import type {Quantizer} from '../quantizer.ts';
import {show} from '../show.ts';
import {float8Tensor, float8ToTensors} from './float8Tensor.ts';
import {assertRules, type ConfigRules, isEmpty, oneOf, onlyFromFiles} from './groupedConfig.ts';
import type {GroupedTensor} from './groupedTensor.ts';
import {beside} from './storedTensors.ts';

type Config = Readonly<Record<string, unknown>>;

const SCALE = 'weight_scale';
const KEPT = ['weight_zero_point', 'input_scale', 'input_zero_point', 'output_scale', 'output_zero_point'];

/**
 * The matrices of compressed-tensors in 8-bit floats, as LLM Compressor writes them: `weight`, and `weight_scale`, one
 * scale for the matrix, for each row, or for each block. Values are those of transformers'
 * `CompressedTensorsConfig(dequantize=True)`; activations are not rounded.
 */
export const compressedTensors: Quantizer = {
  ...onlyFromFiles('compressed-tensors'),
  files: {
    keys(name, source) {
      const isCompressed =
        source.quantizationConfig?.quant_method === 'compressed-tensors' && source.has(beside(name, SCALE));
      if (!isCompressed) return [];
      return [name, ...[SCALE, ...KEPT].map((tensor) => beside(name, tensor))].filter((key) =>
        source.has(key),
      );
    },
    fromTensors: (name, source, dtype) =>
      float8Tensor(name, source, {
        quantType: 'compressed-tensors',
        scale: SCALE,
        kept: KEPT,
        blocks: blocksOf(source.quantizationConfig ?? {}),
        dtype,
      }),
    toTensors: (name, matrix) => float8ToTensors(name, matrix as GroupedTensor, SCALE),
    assertConfig(config, where) {
      assertRules(config, RULES, EXPECTED, where);
      const groups = Object.entries((config.config_groups ?? {}) as Record<string, Config>);
      for (const [name, group] of groups) assertGroup(group, `${where}.config_groups.${name}`);
    },
  },
};

const isFloat = oneOf('float-quantized', 'naive-quantized');

const RULES: ConfigRules = {
  quant_method: oneOf('compressed-tensors'),
  format: isFloat,
  quantization_status: oneOf('compressed', 'frozen'),
  config_groups: (value) => typeof value === 'object' && !Array.isArray(value),
  kv_cache_scheme: isEmpty,
  sparsity_config: (value) => isEmpty(value) || (value as Config).format === 'dense',
  transform_config: isEmpty,
  ignore: 'any', // the tensors say it
  global_compression_ratio: 'any',
  version: 'any',
  run_compressed: 'any',
  dequantize: 'any',
};
const EXPECTED = {
  quant_method: '"compressed-tensors"',
  format: '"float-quantized" or "naive-quantized"',
  quantization_status: '"compressed"',
  config_groups: 'groups by name',
  sparsity_config: 'a dense format',
};

/** What a group says of its weights. */
const WEIGHTS: ConfigRules = {
  num_bits: oneOf(8),
  type: oneOf('float'),
  symmetric: oneOf(true),
  dynamic: oneOf(false),
  strategy: oneOf('tensor', 'channel', 'block'),
  group_size: isEmpty,
  block_structure: (value) => value === null || Array.isArray(value),
  actorder: isEmpty,
  observer: 'any',
  observer_kwargs: 'any',
  scale_dtype: 'any',
  zp_dtype: 'any',
};
const WEIGHTS_EXPECTED = {
  num_bits: '8',
  type: '"float"',
  symmetric: 'true',
  dynamic: 'false',
  strategy: '"tensor", "channel" or "block"',
  block_structure: 'two sizes',
};

function assertGroup({weights, format = null}: Config, where: string): void {
  if (typeof weights !== 'object' || weights === null || !isFloat(format)) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where}: expected weights in float-quantized, got ${show(format ?? weights)}. Load the unquantized files.`,
    );
  }
  assertRules(weights as Config, WEIGHTS, WEIGHTS_EXPECTED, `${where}.weights`);
}

/** Returns the size of blocks that the config says, if it says one. */
function blocksOf({config_groups = {}}: Config): [number, number] | undefined {
  const sizes = Object.values(
    config_groups as Record<string, {weights?: {block_structure?: [number, number] | null}}>,
  );
  return sizes.map(({weights}) => weights?.block_structure).find((size) => Array.isArray(size)) ?? undefined;
}
