import type * as tf from '@tensorflow/tfjs';
import {rotaryEmbeddingOp} from '../../../ops/rotaryEmbedding.ts';
import {kernel} from '../../kernel.ts';
import {runShader} from '../device/runShader.ts';
import {shader} from '../device/shader.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';

/** `RotaryEmbedding` (layers/ops/rotaryEmbedding.ts), a thread per pair. */
export const rotaryEmbedding = kernel(rotaryEmbeddingOp, 'webgpu', ({inputs, backend}) => {
  return rotate(backend, inputs.x, inputs, 1);
});

/** The gradient of `x`: the inverse rotation. */
export const rotaryEmbeddingGrad = kernel(rotaryEmbeddingOp.gradient, 'webgpu', ({inputs, backend}) => {
  return [rotate(backend, inputs.dy, inputs, -1)];
});

function rotate(
  backend: WebGPUBackend,
  x: tf.TensorInfo,
  {cos: cosines, sin: sines}: {cos: tf.TensorInfo; sin: tf.TensorInfo},
  direction: 1 | -1,
): tf.TensorInfo {
  const [batch, heads, length, dim] = x.shape;
  const half = dim / 2;
  const y = backend.makeTensorInfo(x.shape, 'float32');
  const count = batch * heads * length * half;
  if (count === 0) return y;
  const tableStride = cosines.shape[0] === 1 ? 0 : length * half;
  runShader(backend, {
    shader: rotation(),
    buffers: {y, x, cosines, sines},
    uniforms: {count, half, length, heads, tableStride, direction},
    threads: count,
  });
  return y;
}

const rotation = shader(() => ({
  name: 'RotaryEmbedding',
  outputs: {y: 'f32'},
  inputs: {x: 'f32', cosines: 'f32', sines: 'f32'},
  uniforms: {count: 'u32', half: 'u32', length: 'u32', heads: 'u32', tableStride: 'u32', direction: 'f32'},
  workgroup: 256,
  body: `
  let i = flatGroup * WORKGROUP + local;
  if (i >= u.count) { return; }
  let row = i / u.half; // of [B, H, T]
  let at = i % u.half;
  let turn = (row / u.length / u.heads) * u.tableStride + (row % u.length) * u.half + at;
  let c = cosines[turn];
  let s = sines[turn] * u.direction;
  let first = row * 2u * u.half + at;
  let a = x[first];
  let b = x[first + u.half];
  y[first] = a * c - b * s;
  y[first + u.half] = b * c + a * s;`,
}));
