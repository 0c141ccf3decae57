import type * as tf from '@tensorflow/tfjs';
import type {HalfDtype, StorageDtype} from '../../../../quant/float16.ts';
import type {ElementType, UniformType} from '../device/shader.ts';
import {times} from '../device/times.ts';
import {WIDEN} from './unpack16.ts';

/** How a shader reads a stored weight matrix: what it adds to a shader's own declaration, and to a call of it. */
export interface WeightFormat {
  /** Stands for everything that the declaration depends on. */
  key: string;
  /** Inputs. */
  buffers: Record<string, ElementType>;
  tensors: Record<string, tf.TensorInfo>;
  uniforms: Record<string, UniformType>;
  values: Record<string, number>;
  /** WGSL that all threads of a workgroup run before the first octet, knowing `local`, their index, and `WORKGROUP`. */
  prepare: string;
  /**
   * WGSL of `fn weightOctet(row: u32, col: u32) -> mat2x4f`: eight elements of a row from `col` as two vectors, a multiple
   * of 8; past the row's end anything.
   */
  octet(): string;
  /** WGSL of `fn weightHalves(row: u32, col: u32) -> vec4u`, eight float16 in four words, where that is cheaper. */
  halves?(): string;
}

/** A float32 or 16-bit matrix of `cols` columns, rows one after the other; see layers/ops/storedMatrix.ts. */
export function storedFormat(weight: tf.TensorInfo, dtype: StorageDtype, cols: number): WeightFormat {
  const stride = dtype === 'float32' ? cols : Math.ceil(cols / 2);
  const isWide = stride % 4 === 0; // then eight elements are whole vectors
  const isWhole = dtype === 'float32';
  const [vector, scalar] = isWhole ? (['vec4f', 'f32'] as const) : (['vec4u', 'u32'] as const);
  return {
    key: `${dtype} ${cols}`,
    buffers: {weight: isWide ? vector : scalar},
    tensors: {weight},
    uniforms: {},
    values: {},
    prepare: '',
    octet: () => (isWhole ? wholeOctet(cols, isWide) : widenedOctet(dtype, stride, isWide)),
    halves: dtype === 'float16' ? () => halvesOfOctet(stride, isWide) : undefined,
  };
}

/** WGSL of `weightOctet` where elements are float32. */
const wholeOctet = (cols: number, isWide: boolean): string => `
fn weightOctet(row: u32, col: u32) -> mat2x4f {
  ${
    isWide
      ? `let at = (row * ${cols}u + col) / 4u;
  let a = weight[at];
  let b = weight[min(at + 1u, arrayLength(&weight) - 1u)];
  return mat2x4f(a, b);`
      : `var values: mat2x4f;
  ${times(8, (i) => `if (col + ${i}u < ${cols}u) { values[${i >> 2}][${i & 3}] = weight[row * ${cols}u + col + ${i}u]; }`)}
  return values;`
  }
}`;

/** WGSL of `weightOctet` where elements are of 16 bits. */
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

/** WGSL of `weightHalves` where elements are float16. */
const halvesOfOctet = (stride: number, isWide: boolean): string => `
fn weightHalves(row: u32, col: u32) -> vec4u {
  ${wordsOfOctet(stride, isWide)}
  return words;
}`;

/** WGSL that declares the four `words` of an octet where elements are of 16 bits. */
const wordsOfOctet = (stride: number, isWide: boolean): string =>
  isWide
    ? `let words = weight[(row * ${stride}u + col / 2u) / 4u];`
    : `var words: vec4u;
  ${times(4, (i) => `if (col / 2u + ${i}u < ${stride}u) { words[${i}] = weight[row * ${stride}u + col / 2u + ${i}u]; }`)}`;

/** WGSL of `weightHalves`: the format's own, or made of `weightOctet`. Values beyond float16's largest become it. */
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
