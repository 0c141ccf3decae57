import * as tf from '@tensorflow/tfjs';
import {isPlain, runOps} from './runOps.ts';
import type {TensorFlowBackend} from './tensorflowBackend.ts';

interface TransposeArgs {
  inputs: {x: tf.TensorInfo};
  attrs: {perm: number[]};
  backend: unknown;
}

/** `Transpose` without a tensor of the order made and freed at every call. */
export const transpose = (stock: tf.KernelFunc): tf.KernelConfig => ({
  kernelName: tf.Transpose,
  backendName: 'tensorflow',
  kernelFunc: (args) => {
    const {inputs, attrs, backend} = args as unknown as TransposeArgs;
    if (!isPlain(inputs.x)) return stock(args);
    return runOps(backend as TensorFlowBackend, inputs, (ops, {x}) => [
      ops.one('Transpose', [x, ops.integers(attrs.perm)]),
    ])[0];
  },
});
