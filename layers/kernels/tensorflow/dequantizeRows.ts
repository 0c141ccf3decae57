import type * as tf from '@tensorflow/tfjs';
import {dequantize, type QuantizedAttributes} from './dequantize.ts';
import {keepOnCard} from './keepOnCard.ts';
import {runOps} from './runOps.ts';
import type {TensorFlowBackend} from './tensorflowBackend.ts';

interface DequantizeRowsArgs {
  inputs: Record<string, tf.TensorInfo>;
  attrs: QuantizedAttributes & {begin: number; end: number};
  backend: unknown;
}

/** `DequantizeRows` (layers/ops/dequantizeRows.ts). */
export const dequantizeRows = {
  kernelName: 'DequantizeRows',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as DequantizeRowsArgs;
    const backend = anyBackend as TensorFlowBackend;
    const {begin, end} = attrs;
    keepOnCard(backend, inputs);
    return runOps(backend, inputs, (ops, tensors) => [
      dequantize(ops, backend, tensors, attrs, begin, end),
    ])[0];
  },
} as const;
