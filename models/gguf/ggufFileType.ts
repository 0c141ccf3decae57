import type {GgmlType} from '../../quant/gguf/ggmlType.ts';
import {ggmlType} from '../../quant/gguf/ggmlTypes.ts';

/** `general.file_type` and the type of most matrices, by the name of a file type. */
const FILE_TYPES = {
  f32: [0, 'F32'],
  f16: [1, 'F16'],
  bf16: [32, 'BF16'],
  q8_0: [7, 'Q8_0'],
  q4_0: [2, 'Q4_0'],
  q4_k_m: [15, 'Q4_K'],
  q5_k_m: [17, 'Q5_K'],
  q6_k: [18, 'Q6_K'],
} as const;

/**
 * Storage type of the matrices in a GGUF file: 32 or 16 bits, or blocks of about 8.5 (`q8_0`), 6.6 (`q6_k`), 5.7
 * (`q5_k_m`), 4.9 (`q4_k_m`) or 4.5 (`q4_0`) bits. The `_m` types store some matrices in more bits.
 */
export type GgufFileType = keyof typeof FILE_TYPES;
export const GGUF_FILE_TYPES = Object.keys(FILE_TYPES) as readonly GgufFileType[];

/** Returns the number that `general.file_type` has for a file type. */
export const fileTypeNumber = (fileType: GgufFileType): number => FILE_TYPES[fileType][0];

/** The properties of the model that {@link tensorType} needs. */
export interface MixedModel {
  /** Number of blocks. */
  readonly layers: number;
  /** Whether head and embedding share a matrix. */
  readonly isTied: boolean;
  /** Whether llama.cpp takes it for a model of 70B, whose shared value heads are small. */
  readonly is70B: boolean;
}

/**
 * Returns the type of a tensor in a file, as llama.cpp chooses it (`llama_tensor_get_type` in `llama-quant.cpp`): vectors
 * and norms stay in float32; the head, or an embedding that is one too, has 6 bits at least; the `_m` types have 6 bits
 * for values and `ffn_down` in an eighth of the blocks at either end and in every third one between; and rows that are
 * not whole blocks get a type with smaller blocks, or float16.
 *
 * @param name the tensor's name in the file
 * @param shape `[rows, columns]` or `[values]`
 */
export function tensorType(
  fileType: GgufFileType,
  name: string,
  shape: readonly number[],
  model: MixedModel,
): GgmlType {
  if (shape.length < 2 || !name.endsWith('.weight')) return ggmlType('F32');
  const base = FILE_TYPES[fileType][1];
  const isBlocks = !/^B?F(16|32)$/.test(base);
  return ggmlType(isBlocks ? fitting(mixed(fileType, base, name, shape, model), shape) : base);
}

function mixed(
  fileType: GgufFileType,
  base: string,
  name: string,
  [, columns]: readonly number[],
  {layers, isTied, is70B}: MixedModel,
): string {
  if (name === 'output.weight' || (isTied && name === 'token_embd.weight')) {
    if (base === 'Q8_0' || columns % ggmlType(base).valuesPerBlock !== 0) return 'Q8_0';
    return 'Q6_K';
  }
  const [, block, module] = /^blk\.(\d+)\.(\w+)\.weight$/.exec(name) ?? [];
  const isValue = module === 'attn_v' || module === 'attn_qkv';
  const isMixed = fileType === 'q4_k_m' || fileType === 'q5_k_m';
  if (isMixed && (isValue || module === 'ffn_down') && getsMoreBits(Number(block), layers)) return 'Q6_K';
  return isValue && is70B && base === 'Q4_K' ? 'Q5_K' : base;
}

function getsMoreBits(block: number, layers: number): boolean {
  const eighth = Math.floor(layers / 8);
  return block < eighth || block >= Math.floor((7 * layers) / 8) || (block - eighth) % 3 === 2;
}

/** Types with blocks of 32 values, for rows that are not whole blocks of 256. */
const SMALLER: Readonly<Record<string, string>> = {Q4_K: 'Q5_0', Q5_K: 'Q5_1', Q6_K: 'Q8_0'};

function fitting(type: string, [, columns]: readonly number[]): string {
  const fits = (name: string) => columns % ggmlType(name).valuesPerBlock === 0;
  if (fits(type)) return type;
  return fits(SMALLER[type] ?? type) ? (SMALLER[type] ?? type) : 'F16';
}
