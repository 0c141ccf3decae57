import * as tf from '@tensorflow/tfjs';
import {runElementwise} from './elementwise.ts';
import type {WebGPUBackend} from './webgpuBackend.ts';

interface AddArgs {
  inputs: {a: tf.TensorInfo; b: tf.TensorInfo};
  backend: unknown;
}

/** `Add` of float32 tensors of one shape, as residual paths are added: its dispatch costs less than the stock kernel's. */
export function add(stock: tf.KernelFunc): tf.KernelConfig {
  return {
    kernelName: tf.Add,
    backendName: 'webgpu',
    kernelFunc: (args) => {
      const {inputs, backend} = args as unknown as AddArgs;
      const {a, b} = inputs;
      const isPlain = a.dtype === 'float32' && b.dtype === 'float32' && tf.util.arraysEqual(a.shape, b.shape);
      if (!isPlain || tf.util.sizeFromShape(a.shape) === 0) return stock(args);
      return runElementwise(backend as WebGPUBackend, 'Add', ['y'], {a, b}, 'y[i] = a[i] + b[i];')[0];
    },
  };
}
