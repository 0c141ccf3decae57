import type {TensorSource} from '../bitsandbytesState.ts';
import type {StorageDtype} from '../float16.ts';
import type {Quantizer} from '../quantizer.ts';
import {float8Tensor, float8ToTensors} from './float8Tensor.ts';
import {assertRules, type ConfigRules, isEmpty, oneOf, onlyFromFiles} from './groupedConfig.ts';
import type {GroupedTensor} from './groupedTensor.ts';
import {beside} from './storedTensors.ts';

const SCALE = 'weight_scale_inv';
const KEPT = ['activation_scale'];

/**
 * The matrices of transformers' `fp8`, as DeepSeek and Qwen3 publish them: `weight` in 8-bit floats, and
 * `weight_scale_inv`, one scale for each block of `weight_block_size`. Values are those of transformers'
 * `FineGrainedFP8Config(dequantize=True)`; activations are not rounded.
 */
export const fp8: Quantizer = {
  ...onlyFromFiles('fp8'),
  files: {
    keys(name, source) {
      const isFp8 = source.quantizationConfig?.quant_method === 'fp8' && source.has(beside(name, SCALE));
      return isFp8
        ? [name, ...[SCALE, ...KEPT].map((tensor) => beside(name, tensor))].filter((key) => source.has(key))
        : [];
    },
    fromTensors: (name: string, source: TensorSource, dtype: StorageDtype) => {
      const blocks = source.quantizationConfig?.weight_block_size as [number, number] | undefined;
      return float8Tensor(name, source, {quantType: 'fp8', scale: SCALE, kept: KEPT, blocks, dtype});
    },
    toTensors: (name, matrix) => float8ToTensors(name, matrix as GroupedTensor, SCALE),
    assertConfig: (config, where) => assertRules(config, RULES, EXPECTED, where),
  },
};

const isBlock = (value: unknown) =>
  value === null ||
  (Array.isArray(value) && value.length === 2 && value.every((size) => Number.isInteger(size) && size > 0));

const RULES: ConfigRules = {
  quant_method: oneOf('fp8'),
  fmt: oneOf('e4m3', 'float8_e4m3fn'),
  weight_block_size: isBlock,
  scale_fmt: oneOf('float'),
  modules_to_convert: isEmpty,
  activation_scheme: oneOf('dynamic', 'static'),
  modules_to_not_convert: 'any', // the tensors say it
  ignored_layers: 'any',
  dequantize: 'any',
  expert_dtype: 'any', // no model here has experts
};
const EXPECTED = {
  quant_method: '"fp8"',
  fmt: '"e4m3"',
  weight_block_size: 'two sizes',
  scale_fmt: '"float"',
  activation_scheme: '"dynamic" or "static"',
};
