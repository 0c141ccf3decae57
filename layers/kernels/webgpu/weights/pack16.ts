import * as tf from '@tensorflow/tfjs';
import type {HalfDtype} from '../../../../quant/float16.ts';
import {pack16Op} from '../../../ops/pack16.ts';
import {kernel} from '../../kernel.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';

/**
 * WGSL that rounds a float32 to the nearest 16-bit number, ties to even, by its bits; `pack2x16float` varies between
 * devices.
 */
const NARROW: Record<HalfDtype, string> = {
  bfloat16: `
fn narrow(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return (bits >> 16u) | 0x40u; } // stays a NaN
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}`,
  float16: `
fn narrow(value: f32) -> u32 {
  let bits = bitcast<u32>(value);
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) { return sign | 0x7e00u; }
  if (magnitude >= 0x477ff000u) { return sign | 0x7c00u; } // rounds to 65536 or more
  if (magnitude >= 0x38800000u) { // normal: the exponent is 112 less
    let shifted = magnitude - 0x38000000u;
    return sign | ((shifted + 0xfffu + ((shifted >> 13u) & 1u)) >> 13u);
  }
  if (magnitude < 0x33000000u) { return sign; } // rounds to zero
  let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  let shift = 126u - (magnitude >> 23u);
  let half = mantissa >> shift;
  let rest = mantissa & ((1u << shift) - 1u);
  let tie = 1u << (shift - 1u);
  let isUp = rest > tie || (rest == tie && (half & 1u) == 1u);
  return sign | (half + select(0u, 1u, isUp));
}`,
};

/** `Pack16` (layers/ops/pack16.ts), a thread per word. */
export const pack16 = kernel(pack16Op, 'webgpu', ({inputs, attrs, backend}) => {
  const [rows, cols] = inputs.value.shape;
  const wordsPerRow = Math.ceil(cols / 2);
  const packed = backend.makeTensorInfo([rows, wordsPerRow], 'int32');
  const words = tf.util.sizeFromShape(packed.shape);
  if (words === 0) return packed;
  runShader(backend, {
    shader: narrowing(attrs.dtype),
    buffers: {packed, value: inputs.value},
    uniforms: {words, wordsPerRow, cols},
    threads: words,
  });
  return packed;
});

const narrowing = shader((dtype: HalfDtype) => ({
  name: 'Pack16',
  outputs: {packed: 'u32'},
  inputs: {value: 'f32'},
  uniforms: {words: 'u32', wordsPerRow: 'u32', cols: 'u32'},
  workgroup: 256,
  globals: NARROW[dtype],
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i >= u.words) { return; }
  let col = 2u * (i % u.wordsPerRow);
  let at = i / u.wordsPerRow * u.cols + col;
  var word = narrow(value[at]);
  if (col + 1u < u.cols) { word |= narrow(value[at + 1u]) << 16u; }
  packed[i] = word;`,
}));
