import type * as tf from '@tensorflow/tfjs';
import type {HalfDtype} from '../../../../quant/float16.ts';
import type {ElementType, UniformType} from '../device/shader.ts';
import {times} from '../device/times.ts';
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
  /** WGSL of `fn weightHalves(row: u32, col: u32) -> vec4u`, eight float16 in four words, if that is cheaper. */
  halves?(): string;
}

/** The format of a 16-bit matrix of `cols` columns, stored row by row; see layers/ops/storedMatrix.ts. */
export function storedFormat(weight: tf.TensorInfo, dtype: HalfDtype, cols: number): WeightFormat {
  const stride = Math.ceil(cols / 2);
  const isWide = stride % 4 === 0; // then eight elements are a whole vector
  return {
    key: `${dtype} ${cols}`,
    buffers: {weight: isWide ? 'vec4u' : 'u32'},
    tensors: {weight},
    uniforms: {},
    values: {},
    prepare: '',
    octet: () => widenedOctet(dtype, stride, isWide),
    halves: dtype === 'float16' ? () => wordsAsHalves(stride, isWide) : undefined,
  };
}

const widenedOctet = (dtype: HalfDtype, stride: number, isWide: boolean): string => `
${WIDEN[dtype]}
fn weightOctet(row: u32, col: u32) -> mat2x4f {
  ${wordsOfOctet(stride, isWide)}
  let a = widen(words.x);
  let b = widen(words.y);
  let c = widen(words.z);
  let d = widen(words.w);
  return mat2x4f(vec4f(a, b), vec4f(c, d));
}`;

const wordsAsHalves = (stride: number, isWide: boolean): string => `
fn weightHalves(row: u32, col: u32) -> vec4u {
  ${wordsOfOctet(stride, isWide)}
  return words;
}`;

/** WGSL that declares the four `words` of an octet. */
const wordsOfOctet = (stride: number, isWide: boolean): string =>
  isWide
    ? `let words = weight[(row * ${stride}u + col / 2u) / 4u];`
    : `var words: vec4u;
  ${times(4, (i) => `if (col / 2u + ${i}u < ${stride}u) { words[${i}] = weight[row * ${stride}u + col / 2u + ${i}u]; }`)}`;

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
