import * as tf from '@tensorflow/tfjs';
import {isPlain, runOps} from './runOps.ts';
import type {TensorFlowBackend} from './tensorflowBackend.ts';

interface ReshapeArgs {
  inputs: {x: tf.TensorInfo};
  attrs: {shape: number[]};
  backend: unknown;
}

/** `Reshape` without a tensor of the shape made and freed at every call: a model of small weights waits for little else. */
export const reshape = (stock: tf.KernelFunc): tf.KernelConfig => ({
  kernelName: tf.Reshape,
  backendName: 'tensorflow',
  kernelFunc: (args) => {
    const {inputs, attrs, backend} = args as unknown as ReshapeArgs;
    if (!isPlain(inputs.x)) return stock(args);
    return runOps(backend as TensorFlowBackend, inputs, (ops, {x}) => [ops.reshape(x, attrs.shape)])[0];
  },
});
