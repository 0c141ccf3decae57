import type * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {runElementwise} from './elementwise.ts';

interface SwiGLUArgs {
  inputs: {gate: tf.TensorInfo; up: tf.TensorInfo; dy: tf.TensorInfo};
  backend: unknown;
}

/** `SwiGLU` (layers/ops/swiGLU.ts) in one pass. */
export const swiGLU = {
  kernelName: 'SwiGLU',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, backend} = args as SwiGLUArgs;
    const {gate, up} = inputs;
    const body = 'y[i] = gate[i] / (1.0 + exp(-gate[i])) * up[i];';
    return runElementwise(backend as WebGPUBackend, 'SwiGLU', ['y'], {gate, up}, body)[0];
  },
} as const;

/** Gradients of `gate` and `up`, in one pass. */
export const swiGLUGrad = {
  kernelName: 'SwiGLUGrad',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, backend} = args as SwiGLUArgs;
    const {gate, up, dy} = inputs;
    const body = `
      let sigmoid = 1.0 / (1.0 + exp(-gate[i]));
      let silu = gate[i] * sigmoid;
      dGate[i] = dy[i] * up[i] * (sigmoid + silu * (1.0 - sigmoid));
      dUp[i] = dy[i] * silu;`;
    return runElementwise(backend as WebGPUBackend, 'SwiGLUGrad', ['dGate', 'dUp'], {gate, up, dy}, body);
  },
} as const;
