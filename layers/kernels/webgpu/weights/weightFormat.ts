import type * as tf from '@tensorflow/tfjs';
import type {HalfDtype} from '../../../../quant/float16.ts';
import {type ElementType, numbered, type UniformType} from '../device/shader.ts';
import {times} from '../device/times.ts';
import type {RowParts} from './rowParts.ts';
import {WIDEN} from './unpack16.ts';

/** How a shader reads a stored weight matrix: additions to the shader's declaration and to its call. */
export interface WeightFormat {
  /** Represents everything that the declaration depends on. */
  key: string;
  /** The inputs. */
  buffers: Record<string, ElementType>;
  tensors: Record<string, tf.TensorInfo>;
  uniforms: Record<string, UniformType>;
  values: Record<string, number>;
  /**
   * WGSL that all threads of a workgroup run before the first octet; it may use `local`, their index, and `WORKGROUP`.
   */
  prepare: string;
  /**
   * WGSL of `fn weightOctet(row: u32, col: u32) -> mat2x4f`: eight elements of a row from `col`, a multiple of 8, as
   * two vectors; elements past the row's end are arbitrary.
   */
  octet(): string;
  /**
   * WGSL of `fn weightHalves(row: u32, col: u32) -> vec4u`, eight float16 in four words, if that is cheaper. It uses
   * declarations of `octet`.
   */
  halves?(): string;
}

/** A stored matrix that rows `x` are multiplied by. */
export interface Multiplier {
  weight: WeightFormat;
  /** Rows of the stored matrix. */
  rows: number;
  cols: number;
  /** Whether to compute `x · Wᵀ` (k = cols, n = rows) or `x · W` (k = rows, n = cols). */
  transposeWeight: boolean;
}

/** The format of a 16-bit matrix of `cols` columns, stored row by row; see layers/ops/storedMatrix.ts. */
export function storedFormat({parts, rows}: RowParts, dtype: HalfDtype, cols: number): WeightFormat {
  const stride = Math.ceil(cols / 2);
  const isWide = stride % 4 === 0; // then eight elements are a whole vector
  const type = isWide ? 'vec4u' : 'u32';
  const words: StoredWords = {
    stride,
    isWide,
    parts: parts.length,
    perPart: (rows * stride) / (isWide ? 4 : 1),
  };
  return {
    key: parts.length === 1 ? `${dtype} ${cols}` : `${dtype} ${cols}, ${parts.length} × ${rows} rows`,
    buffers: numbered('weight', parts.length, () => type),
    tensors: numbered('weight', parts.length, (i) => parts[i]),
    uniforms: {},
    values: {},
    prepare: '',
    octet: () => widenedOctet(dtype, words),
    halves: dtype === 'float16' ? () => wordsAsHalves(words) : undefined,
  };
}

/** How the words of a stored matrix are bound. */
interface StoredWords {
  /** Number of words in a row. */
  stride: number;
  /** Whether buffers are bound as vectors of four words. */
  isWide: boolean;
  /** Number of buffers `weight0`, `weight1` …, and of elements in each but the last. */
  parts: number;
  perPart: number;
}

const widenedOctet = (dtype: HalfDtype, words: StoredWords): string => `
${WIDEN[dtype]}
${readWords(words)}
fn weightOctet(row: u32, col: u32) -> mat2x4f {
  ${wordsOfOctet(words)}
  let a = widen(words.x);
  let b = widen(words.y);
  let c = widen(words.z);
  let d = widen(words.w);
  return mat2x4f(vec4f(a, b), vec4f(c, d));
}`;

const wordsAsHalves = (words: StoredWords): string => `
fn weightHalves(row: u32, col: u32) -> vec4u {
  ${wordsOfOctet(words)}
  return words;
}`;

/** WGSL of `wordsAt(at)`, one element of the buffers. */
const readWords = ({isWide, parts, perPart}: StoredWords): string => `
fn wordsAt(at: u32) -> ${isWide ? 'vec4u' : 'u32'} {
  ${times(parts - 1, (i) => `if (at < ${(i + 1) * perPart}u) { return weight${i}[at - ${i * perPart}u]; }`)}
  return weight${parts - 1}[at - ${(parts - 1) * perPart}u];
}`;

/** WGSL that declares the four `words` of an octet. */
const wordsOfOctet = ({stride, isWide}: StoredWords): string =>
  isWide
    ? `let words = wordsAt((row * ${stride}u + col / 2u) / 4u);`
    : `var words: vec4u;
  ${times(4, (i) => `if (col / 2u + ${i}u < ${stride}u) { words[${i}] = wordsAt(row * ${stride}u + col / 2u + ${i}u); }`)}`;

/**
 * WGSL of `weightHalves`: the format's own, or made from `weightOctet`. Values beyond float16's largest become the
 * largest.
 */
export const halvesOf = ({halves}: WeightFormat): string =>
  halves?.() ??
  `
fn weightHalves(row: u32, col: u32) -> vec4u {
  let v = weightOctet(row, col);
  let limit = vec4f(65504.0);
  let a = clamp(v[0], -limit, limit);
  let b = clamp(v[1], -limit, limit);
  return vec4u(bitcast<vec2u>(vec4<f16>(a)), bitcast<vec2u>(vec4<f16>(b)));
}`;
