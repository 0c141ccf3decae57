import type {TensorSource} from '../bitsandbytesState.ts';
import {TfjsLoraError} from '../errors.ts';
import type {Quantizer} from '../quantizer.ts';
import type {TensorToWrite} from '../safetensors/writeSafetensors.ts';
import {assertRules, type ConfigRules, isEmpty, oneOf, onlyFromFiles} from './groupedConfig.ts';
import {GroupedTensor} from './groupedTensor.ts';
import {assertTensorShape, beside, readScales, readWords, scaleTensor, transposed} from './storedTensors.ts';

const TENSORS = ['qweight', 'qzeros', 'scales'] as const;

/** The row of a word's eight in each of its half bytes, from the lowest: AutoAWQ's `AWQ_ORDER`. */
const ORDER = [0, 2, 4, 6, 1, 3, 5, 7];

/**
 * The matrices of AWQ (Lin et al. 2023) in AutoAWQ's `gemm` format, of 4 bits, in groups of columns: `qweight` int32
 * `[cols, rows / 8]`, `qzeros` int32 `[groups, rows / 8]`, both with eight rows to a word in the order of {@link ORDER},
 * and `scales` `[groups, rows]`. Values are those of AutoAWQ's `dequantize_gemm`.
 */
export const awq: Quantizer = {
  ...onlyFromFiles('awq'),
  files: {
    keys(name, source) {
      const isAwq = source.quantizationConfig?.quant_method === 'awq' && source.has(beside(name, 'qweight'));
      return isAwq ? TENSORS.map((tensor) => beside(name, tensor)).filter((key) => source.has(key)) : [];
    },
    fromTensors,
    toTensors: (name, matrix) => toTensors(name, matrix as GroupedTensor),
    assertConfig: (config, where) => assertRules(config, RULES, EXPECTED, where),
  },
};

const isGemm = (value: unknown) => value === null || String(value).toLowerCase() === 'gemm';

/** Keys of AutoAWQ, GPTQModel and transformers. */
const RULES: ConfigRules = {
  quant_method: oneOf('awq'),
  method: oneOf('awq'),
  bits: oneOf(4),
  w_bit: oneOf(4),
  group_size: (value) => Number.isInteger(value) && (value === -1 || (value as number) > 0),
  q_group_size: (value) => Number.isInteger(value),
  version: isGemm,
  format: isGemm,
  checkpoint_format: isGemm,
  pack_dtype: oneOf('int32'),
  backend: (value) => value !== 'llm-awq', // others say what computes with the weights
  dynamic: isEmpty,
  adapter: isEmpty,
  // The tensors say these, and which modules are quantized.
  zero_point: 'any',
  sym: 'any',
  desc_act: 'any',
  modules_to_not_convert: 'any',
  lm_head: 'any',
  // These say how to compute, or how the weights were found.
  do_fuse: 'any',
  modules_to_fuse: 'any',
  fuse_max_seq_len: 'any',
  exllama_config: 'any',
  true_sequential: 'any',
  damp_percent: 'any',
  act_group_aware: 'any',
  meta: 'any',
};
const EXPECTED = {
  quant_method: '"awq"',
  method: '"awq"',
  bits: '4',
  w_bit: '4',
  group_size: '-1 or a number of columns',
  q_group_size: 'a number of columns',
  version: '"gemm"',
  format: '"gemm"',
  checkpoint_format: '"gemm"',
  pack_dtype: '"int32"',
  backend: 'another backend',
};

function fromTensors(name: string, source: TensorSource): GroupedTensor {
  const key = (tensor: (typeof TENSORS)[number]) => beside(name, tensor);
  const {words, shape: packed} = readWords(source, key('qweight'), 2);
  const [cols, rows] = [packed[0], 8 * packed[1]];
  const {values, dtype, shape} = readScales(source, key('scales'));
  const groups = shape[0];
  assertTensorShape(key('scales'), shape, [groups, rows]);
  if (cols % 8 !== 0 || cols % groups !== 0) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `Tensor ${key('qweight')}: expected columns in eights and in ${groups} equal groups, got ${cols} columns.`,
    );
  }
  const zeros = readWords(source, key('qzeros'), 2);
  assertTensorShape(key('qzeros'), zeros.shape, [groups, rows / 8]);
  return new GroupedTensor({
    quantType: 'awq',
    shape: [rows, cols],
    codeType: 'uint4',
    codes: new Uint8Array(columnsToRows(words, cols, rows).buffer),
    groupShape: [1, cols / groups],
    scales: transposed(values, groups, rows),
    zeros: transposed(unpackedZeros(zeros.words), groups, rows),
    dtype,
  });
}

function toTensors(
  name: string,
  {shape, codes, scales, zeros, groupShape, dtype}: GroupedTensor,
): TensorToWrite[] {
  const [rows, cols] = shape;
  const groups = cols / groupShape[1];
  const words = new Int32Array(codes.buffer, codes.byteOffset, codes.length / 4);
  const packedZeros = packZeros(transposed(zeros ?? new Uint8Array(scales.length), rows, groups));
  return [
    {
      name: beside(name, 'qweight'),
      dtype: 'I32',
      shape: [cols, rows / 8],
      data: rowsToColumns(words, cols, rows),
    },
    {name: beside(name, 'qzeros'), dtype: 'I32', shape: [groups, rows / 8], data: packedZeros},
    scaleTensor(beside(name, 'scales'), {
      values: transposed(scales, rows, groups),
      dtype,
      shape: [groups, rows],
    }),
  ];
}

/** Words of eight rows `[cols, rows / 8]` → words of eight columns, the first in the lowest bits, `[rows, cols / 8]`. */
function columnsToRows(words: Int32Array, cols: number, rows: number): Int32Array {
  const to = new Int32Array(words.length);
  const [across, down] = [cols / 8, rows / 8];
  for (let block = 0; block < across; block++) {
    for (let k = 0; k < down; k++) {
      for (let i = 0; i < 8; i++) {
        let word = 0;
        for (let j = 0; j < 8; j++) word |= ((words[(8 * block + j) * down + k] >>> (4 * i)) & 15) << (4 * j);
        to[(8 * k + ORDER[i]) * across + block] = word;
      }
    }
  }
  return to;
}

function rowsToColumns(words: Int32Array, cols: number, rows: number): Int32Array {
  const to = new Int32Array(words.length);
  const [across, down] = [cols / 8, rows / 8];
  for (let k = 0; k < down; k++) {
    for (let block = 0; block < across; block++) {
      for (let j = 0; j < 8; j++) {
        let word = 0;
        for (let i = 0; i < 8; i++)
          word |= ((words[(8 * k + ORDER[i]) * across + block] >>> (4 * j)) & 15) << (4 * i);
        to[(8 * block + j) * down + k] = word;
      }
    }
  }
  return to;
}

function unpackedZeros(words: Int32Array): Uint8Array {
  const zeros = new Uint8Array(8 * words.length);
  words.forEach((word, k) => {
    for (let i = 0; i < 8; i++) zeros[8 * k + ORDER[i]] = (word >>> (4 * i)) & 15;
  });
  return zeros;
}

const packZeros = (zeros: Uint8Array): Int32Array =>
  Int32Array.from({length: zeros.length / 8}, (_, k) =>
    ORDER.reduce((word, row, i) => word | (zeros[8 * k + row] << (4 * i)), 0),
  );
