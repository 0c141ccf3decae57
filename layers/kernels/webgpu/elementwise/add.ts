import * as tf from '@tensorflow/tfjs';
import {holdsFloat32, type WebGPUBackend} from '../device/webgpuBackend.ts';
import {elementwise, runElementwise} from './elementwise.ts';

interface AddArgs {
  inputs: {a: tf.TensorInfo; b: tf.TensorInfo};
  backend: unknown;
}

const sum = elementwise({name: 'Add', outputs: ['y'], inputs: ['a', 'b'], body: 'y[i] = a[i] + b[i];'});

/** `Add` of float32 tensors of one shape, as residual paths are added: its dispatch costs less than the stock kernel's. */
export function add(stock: tf.KernelFunc): tf.KernelConfig {
  return {
    kernelName: tf.Add,
    backendName: 'webgpu',
    kernelFunc: (args) => {
      const {inputs, backend: anyBackend} = args as unknown as AddArgs;
      const backend = anyBackend as WebGPUBackend;
      const {a, b} = inputs;
      const isSame = tf.util.arraysEqual(a.shape, b.shape) && tf.util.sizeFromShape(a.shape) > 0;
      if (!isSame || !holdsFloat32(backend, a) || !holdsFloat32(backend, b)) return stock(args);
      return runElementwise(backend, sum, {a, b})[0];
    },
  };
}
