import type * as tf from '@tensorflow/tfjs';
import {swiGLUOp} from '../../../ops/swiGLU.ts';
import {kernel} from '../../kernel.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {elementwise, runElementwise} from './elementwise.ts';

const forward = elementwise({
  name: 'SwiGLU',
  outputs: ['y'],
  inputs: ['gate', 'up'],
  body: 'y[i] = gate[i] / (1.0 + exp(-gate[i])) * up[i];',
});

const backward = elementwise({
  name: 'SwiGLUGrad',
  outputs: ['dGate', 'dUp'],
  inputs: ['gate', 'up', 'dy'],
  body: `
  let sigmoid = 1.0 / (1.0 + exp(-gate[i]));
  let silu = gate[i] * sigmoid;
  dGate[i] = dy[i] * up[i] * (sigmoid + silu * (1.0 - sigmoid));
  dUp[i] = dy[i] * silu;`,
});

/** `SwiGLU` (layers/ops/swiGLU.ts) in one pass. */
export const swiGLU = kernel(swiGLUOp, 'webgpu', ({inputs, backend}) => {
  return gateRows(backend, inputs.gate, inputs.up);
});

/** Computes `silu(gate) · up`. */
export const gateRows = (backend: WebGPUBackend, gate: tf.TensorInfo, up: tf.TensorInfo): tf.TensorInfo =>
  runElementwise(backend, forward, {gate, up})[0];

/** Gradients of `gate` and `up`, in one pass. */
export const swiGLUGrad = kernel(swiGLUOp.gradient, 'webgpu', ({inputs, backend}) => {
  const {gate, up, dy} = inputs;
  return runElementwise(backend, backward, {gate, up, dy});
});
