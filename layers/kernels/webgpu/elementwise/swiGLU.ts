import type * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {elementwise, runElementwise} from './elementwise.ts';

interface SwiGLUArgs {
  inputs: {gate: tf.TensorInfo; up: tf.TensorInfo; dy: tf.TensorInfo};
  backend: unknown;
}

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
export const swiGLU = {
  kernelName: 'SwiGLU',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, backend} = args as SwiGLUArgs;
    const {gate, up} = inputs;
    return runElementwise(backend as WebGPUBackend, forward, {gate, up})[0];
  },
} as const;

/** Gradients of `gate` and `up`, in one pass. */
export const swiGLUGrad = {
  kernelName: 'SwiGLUGrad',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, backend} = args as SwiGLUArgs;
    const {gate, up, dy} = inputs;
    return runElementwise(backend as WebGPUBackend, backward, {gate, up, dy});
  },
} as const;
