import type {TensorSource} from '../bitsandbytesState.ts';
import {TfjsLoraError} from '../errors.ts';
import type {Quantizer} from '../quantizer.ts';
import type {TensorToWrite} from '../safetensors/writeSafetensors.ts';
import {assertRules, type ConfigRules, isEmpty, oneOf, onlyFromFiles} from './groupedConfig.ts';
import {GroupedTensor} from './groupedTensor.ts';
import {
  assertTensorShape,
  beside,
  keptTensors,
  readScales,
  readWords,
  scaleTensor,
  transposed,
} from './storedTensors.ts';

type Config = Readonly<Record<string, unknown>>;

const TENSORS = ['qweight', 'qzeros', 'scales', 'g_idx'] as const;

/**
 * The matrices of GPTQ (Frantar et al. 2022) as AutoGPTQ and GPTQModel store them, of 4 or 8 bits, in groups of columns
 * in any order: `qweight` int32 `[cols · bits / 32, rows]`, the first column of a word in its lowest bits; `scales`
 * `[groups, rows]`; `qzeros` int32 `[groups, rows · bits / 32]`; `g_idx` int32 `[cols]`, each column's group. Values are
 * those of GPTQModel's `dequantize_weight`.
 */
export const gptq: Quantizer = {
  ...onlyFromFiles('gptq'),
  files: {
    keys(name, source) {
      const isGptq =
        source.quantizationConfig?.quant_method === 'gptq' && source.has(beside(name, 'qweight'));
      return isGptq ? TENSORS.map((tensor) => beside(name, tensor)).filter((key) => source.has(key)) : [];
    },
    fromTensors,
    toTensors: (name, matrix, settings) => toTensors(name, matrix as GroupedTensor, settings),
    assertConfig: (config, where) => assertRules(config, RULES, EXPECTED, where),
  },
};

const isFormat = oneOf('gptq', 'gptq_v2');

/** Keys of AutoGPTQ, GPTQModel and transformers. */
const RULES: ConfigRules = {
  quant_method: oneOf('gptq'),
  method: oneOf('gptq'),
  bits: oneOf(4, 8),
  group_size: (value) => Number.isInteger(value) && (value === -1 || (value as number) > 0),
  checkpoint_format: isFormat,
  format: isFormat,
  is_marlin_format: isEmpty,
  pack_dtype: oneOf('int32'),
  adapter: isEmpty,
  rotation: isEmpty,
  // The tensors say these: their shapes, and the order of columns.
  ...any(
    'dynamic',
    'desc_act',
    'sym',
    'lm_head',
    'modules_in_block_to_quantize',
    'static_groups',
    'act_group_aware',
  ),
  // These say how the weights were found, or what computes with them.
  ...any(
    'damp_percent',
    'damp_auto_increment',
    'true_sequential',
    'mse',
    'gptaq',
    'foem',
    'meta',
    'dataset',
    'tokenizer',
  ),
  ...any(
    'backend',
    'use_exllama',
    'disable_exllama',
    'exllama_config',
    'max_input_length',
    'use_cuda_fp16',
    'batch_size',
  ),
  ...any('model_seqlen', 'block_name_to_quantize', 'module_name_preceding_first_block', 'pad_token_id'),
  ...any(
    'cache_block_outputs',
    'cache_examples_on_gpu',
    'model_name_or_path',
    'model_file_base_name',
    'hyb_act',
  ),
  ...any('quantize_embed', 'offload_to_disk', 'process', 'uri', 'is_quantized', 'awq_gemm_checkpoint'),
};
const EXPECTED = {
  quant_method: '"gptq"',
  method: '"gptq"',
  bits: '4 or 8',
  group_size: '-1 or a number of columns',
  checkpoint_format: '"gptq" or "gptq_v2"',
  format: '"gptq" or "gptq_v2"',
  pack_dtype: '"int32"',
};

function any(...keys: string[]): ConfigRules {
  return Object.fromEntries(keys.map((key) => [key, 'any']));
}

function fromTensors(name: string, source: TensorSource): GroupedTensor {
  const config = source.quantizationConfig ?? {};
  const key = (tensor: (typeof TENSORS)[number]) => beside(name, tensor);
  const {words, shape: packed} = readWords(source, key('qweight'), 2);
  const hasIndex = source.has(key('g_idx'));
  const index = hasIndex ? readWords(source, key('g_idx'), 1).words : undefined;
  const rows = packed[1];
  const cols = index?.length ?? (packed[0] * 32) / (config.bits as number);
  const bits = (packed[0] * 32) / cols;
  if (bits !== 4 && bits !== 8) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `Tensor ${key('qweight')}: expected 4 or 8 bits for each of ${cols} columns, got [${packed}] words, ${bits} bits.`,
    );
  }
  const {values, dtype, shape} = readScales(source, key('scales'));
  const groups = shape[0];
  assertTensorShape(key('scales'), shape, [groups, rows]);
  const zeros = readWords(source, key('qzeros'), 2);
  assertTensorShape(key('qzeros'), zeros.shape, [groups, (rows * bits) / 32]);
  const groupCols = columnsOfGroup(key('scales'), cols, groups, config.group_size);
  const isInOrder = index?.every((group, col) => group === Math.floor(col / groupCols)) ?? true;
  return new GroupedTensor({
    quantType: 'gptq',
    shape: [rows, cols],
    codeType: bits === 4 ? 'uint4' : 'uint8',
    codes: new Uint8Array(transposed(words, packed[0], rows).buffer),
    groupShape: [1, groupCols],
    scales: transposed(values, groups, rows),
    zeros: transposed(unpacked(shifted(zeros.words, bits, config, 1), bits), groups, rows),
    groupIndex: isInOrder ? undefined : index?.slice(),
    dtype,
    file: {hasIndex, ...(source.extras?.length && {others: zeroBiases(source, source.extras)})},
  });
}

/** Returns biases that a file has for layers without one, to be saved again. They must be zeros. */
function zeroBiases(source: TensorSource, keys: readonly string[]): TensorToWrite[] {
  const wrong = keys.find((key) => source.read(key).some((byte) => byte !== 0));
  if (wrong === undefined) return keptTensors(source, keys);
  throw new TfjsLoraError(
    'UNEXPECTED_TENSOR',
    `Tensor ${wrong}: expected zeros, because the model that config.json describes has no such bias, got other numbers.`,
  );
}

/** Returns how many columns share a scale: as the config says, or for layers with a size of their own an equal part. */
function columnsOfGroup(key: string, cols: number, groups: number, size: unknown): number {
  if (groups === 1) return cols;
  if (typeof size === 'number' && Math.ceil(cols / size) === groups) return size;
  if (cols % groups === 0) return cols / groups;
  throw new TfjsLoraError(
    'SHAPE_MISMATCH',
    `Tensor ${key}: expected the scales of ${cols} columns in groups of ${size}, got ${groups} groups.`,
  );
}

function toTensors(name: string, matrix: GroupedTensor, settings: Config = {}): TensorToWrite[] {
  const {shape, codeType, codes, scales, groupShape, groupIndex, dtype, file} = matrix;
  const [rows, cols] = shape;
  const bits = codeType === 'uint4' ? 4 : 8;
  const groups = Math.ceil(cols / groupShape[1]);
  const wordsOfRow = (cols * bits) / 32;
  const words = new Int32Array(codes.buffer, codes.byteOffset, codes.length / 4);
  const zeros = transposed(matrix.zeros ?? new Uint8Array(scales.length), rows, groups);
  const index = groupIndex ?? Int32Array.from({length: cols}, (_, col) => Math.floor(col / groupShape[1]));
  const ints = (tensor: string, of: number[], data: Int32Array): TensorToWrite => ({
    name: beside(name, tensor),
    dtype: 'I32',
    shape: of,
    data,
  });
  const scaleValues = transposed(scales, rows, groups);
  return [
    ints('qweight', [wordsOfRow, rows], transposed(words, rows, wordsOfRow)),
    ints('qzeros', [groups, (rows * bits) / 32], shifted(packed(zeros, bits), bits, settings, -1)),
    scaleTensor(beside(name, 'scales'), {values: scaleValues, dtype, shape: [groups, rows]}),
    ...(file?.hasIndex === false ? [] : [ints('g_idx', [cols], index)]),
    ...(file?.others ?? []),
  ];
}

/** Adds 1 to all zeros, or subtracts it, if the format stores them less 1: whole words at a time, as GPTQModel does. */
function shifted(
  words: Int32Array,
  bits: 4 | 8,
  {checkpoint_format, format}: Config,
  by: 1 | -1,
): Int32Array {
  if ((checkpoint_format ?? format ?? 'gptq') !== 'gptq') return words;
  const ones = bits === 4 ? 0x11111111 : 0x01010101;
  return words.map((word) => word + by * ones);
}

/** Returns the numbers of words, a byte each, the first in the lowest bits. */
function unpacked(words: Int32Array, bits: 4 | 8): Uint8Array {
  const bytes = new Uint8Array(words.slice().buffer);
  return bits === 8
    ? bytes
    : Uint8Array.from({length: 2 * bytes.length}, (_, i) => (bytes[i >> 1] >> (4 * (i % 2))) & 15);
}

function packed(numbers: Uint8Array, bits: 4 | 8): Int32Array {
  const bytes =
    bits === 8
      ? numbers.slice()
      : Uint8Array.from({length: numbers.length / 2}, (_, i) => numbers[2 * i] | (numbers[2 * i + 1] << 4));
  return new Int32Array(bytes.buffer);
}
