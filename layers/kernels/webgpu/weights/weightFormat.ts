import type * as tf from '@tensorflow/tfjs';
import type {StorageDtype} from '../../../../quant/float16.ts';
import {WIDEN} from './unpack16.ts';

/** How a shader reads a stored weight matrix. */
export interface WeightFormat {
  /** The tensors it is stored in, bound one after the other. */
  tensors: tf.TensorInfo[];
  /** Names everything that the texts below depend on; see `shaderText`. Without it they are built at each call. */
  key?: string;
  /** Further members of the shader's uniform struct, which it reads as `u.<name>`. */
  uniforms: Record<string, {u32: number} | {f32: number}>;
  /** WGSL that all threads of a workgroup run before the first octet, knowing `local`, their index, and `WORKGROUP`. */
  prepare: string;
  /**
   * WGSL that binds `tensors` from `firstBinding` on and declares `fn weightOctet(row: u32, col: u32) -> mat2x4f`:
   * eight elements of a row from `col` as two vectors, a multiple of 8; past the row's end anything.
   */
  code(firstBinding: number): string;
  /**
   * The same as {@link code} with `fn weightHalves(row: u32, col: u32) -> vec4u`, eight float16 in four words, where it is
   * cheaper than converting.
   */
  halves?: string;
}

/** A float32 or 16-bit matrix of `cols` columns, rows one after the other; see layers/ops/storedMatrix.ts. */
export function storedFormat(tensor: tf.TensorInfo, dtype: StorageDtype, cols: number): WeightFormat {
  const stride = dtype === 'float32' ? cols : Math.ceil(cols / 2);
  const key = `${dtype} ${cols}`;
  const isWide = stride % 4 === 0; // then eight elements are whole vectors
  const binding = (at: number, element: string) =>
    `@group(0) @binding(${at}) var<storage, read> weight: array<${element}>;`;
  if (dtype === 'float32') {
    const body = isWide
      ? `let at = (row * ${stride}u + col) / 4u;
  let a = weight[at];
  let b = weight[min(at + 1u, arrayLength(&weight) - 1u)];
  return mat2x4f(a, b);`
      : `var values: mat2x4f;
  ${Array.from({length: 8}, (_, i) => `if (col + ${i}u < ${cols}u) { values[${i >> 2}][${i & 3}] = weight[row * ${stride}u + col + ${i}u]; }`).join('\n')}
  return values;`;
    return {
      tensors: [tensor],
      key,
      uniforms: {},
      prepare: '',
      code: (at) => `${binding(at, isWide ? 'vec4f' : 'f32')}
fn weightOctet(row: u32, col: u32) -> mat2x4f {
  ${body}
}`,
    };
  }
  const body = isWide
    ? 'let words = weight[(row * STRIDE + col / 2u) / 4u];'
    : `var words: vec4u;
  ${[0, 1, 2, 3].map((i) => `if (col / 2u + ${i}u < STRIDE) { words[${i}] = weight[row * STRIDE + col / 2u + ${i}u]; }`).join('\n')}`;
  return {
    tensors: [tensor],
    key,
    uniforms: {},
    prepare: '',
    code: (at) => `
const STRIDE = ${stride}u;
${binding(at, isWide ? 'vec4u' : 'u32')}
${WIDEN[dtype]}
fn weightOctet(row: u32, col: u32) -> mat2x4f {
  ${body}
  let a = widen(words.x);
  let b = widen(words.y);
  let c = widen(words.z);
  let d = widen(words.w);
  return mat2x4f(vec4f(a, b), vec4f(c, d));
}`,
    halves:
      dtype === 'float16'
        ? `
fn weightHalves(row: u32, col: u32) -> vec4u {
  ${body}
  return words;
}`
        : undefined,
  };
}

/** `weightHalves` made of `weightOctet`; needs `enable f16`. Values beyond float16's largest become it. */
export const CONVERTED_HALVES = `
fn weightHalves(row: u32, col: u32) -> vec4u {
  let v = weightOctet(row, col);
  let limit = vec4f(65504.0);
  let a = clamp(v[0], -limit, limit);
  let b = clamp(v[1], -limit, limit);
  return vec4u(bitcast<vec2u>(vec4<f16>(a)), bitcast<vec2u>(vec4<f16>(b)));
}`;

/** The WGSL and the values of a format's uniforms, to follow a shader's own. */
export function formatUniforms({uniforms}: WeightFormat): {
  fields: string;
  values: ({u32: number} | {f32: number})[];
} {
  const fields = Object.entries(uniforms).map(([name, value]) => `, ${name}: ${Object.keys(value)[0]}`);
  return {fields: fields.join(''), values: Object.values(uniforms)};
}
