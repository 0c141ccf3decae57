import * as tf from '@tensorflow/tfjs';
import type {HalfDtype} from '../../../../quant/float16.ts';
import {unpack16Op} from '../../../ops/unpack16.ts';
import {kernel} from '../../kernel.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';

/**
 * WGSL that widens both halves of a word exactly, without the device's own 16-bit floats, which some drivers flush.
 *
 * A float16 is widened by shifting its exponent and mantissa into a float32's place and raising the exponent by 112, or
 * to float32's own for infinities and NaN; for subnormal numbers by 113, and the leading one is subtracted. No branches, which are slow in tight
 * loops.
 */
export const WIDEN: Record<HalfDtype, string> = {
  bfloat16: `
fn widen(word: u32) -> vec2f { return bitcast<vec2f>(vec2u(word << 16u, word & 0xffff0000u)); }`,
  float16: `
fn widenHalf(half: u32) -> f32 {
  let magnitude = half & 0x7fffu;
  let bits = (magnitude << 13u) + select(0x38000000u, 0x70000000u, magnitude >= 0x7c00u); // also for infinity
  let subnormal = bitcast<f32>((magnitude << 13u) + 0x38800000u) - 0x1p-14f;
  let value = select(bitcast<f32>(bits), subnormal, magnitude < 0x400u);
  return select(value, -value, (half & 0x8000u) != 0u);
}
fn widen(word: u32) -> vec2f { return vec2f(widenHalf(word & 0xffffu), widenHalf(word >> 16u)); }`,
};

/** `Unpack16` (layers/ops/unpack16.ts), a thread per word. */
export const unpack16 = kernel(unpack16Op, 'webgpu', ({inputs, attrs, backend}) => {
  const {dtype, cols} = attrs;
  const {packed} = inputs;
  const y = backend.makeTensorInfo([packed.shape[0], cols], 'float32');
  const words = tf.util.sizeFromShape(packed.shape);
  if (words === 0) return y;
  const wordsPerRow = packed.shape[1];
  runShader(backend, {
    shader: widening(dtype),
    buffers: {y, packed},
    uniforms: {words, wordsPerRow, cols},
    threads: words,
  });
  return y;
});

const widening = shader((dtype: HalfDtype) => ({
  name: 'Unpack16',
  outputs: {y: 'f32'},
  inputs: {packed: 'u32'},
  uniforms: {words: 'u32', wordsPerRow: 'u32', cols: 'u32'},
  workgroup: 256,
  globals: WIDEN[dtype],
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i >= u.words) { return; }
  let row = i / u.wordsPerRow;
  let col = 2u * (i % u.wordsPerRow);
  let values = widen(packed[i]);
  y[row * u.cols + col] = values.x;
  if (col + 1u < u.cols) { y[row * u.cols + col + 1u] = values.y; }`,
}));
