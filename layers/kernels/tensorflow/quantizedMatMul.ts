import type * as tf from '@tensorflow/tfjs';
import {dequantize, type QuantizedAttributes} from './dequantize.ts';
import {multiply} from './multiply.ts';
import {runOps} from './runOps.ts';
import {productsOf, type TensorFlowBackend} from './tensorflowBackend.ts';

interface QuantizedMatMulArgs {
  inputs: {x: tf.TensorInfo} & Record<string, tf.TensorInfo>;
  attrs: QuantizedAttributes & {transposeWeight: boolean};
  backend: unknown;
}

/** `QuantizedMatMul` (layers/ops/quantizedMatMul.ts): dequantized tile by tile, before the product of each. */
export const quantizedMatMul = {
  kernelName: 'QuantizedMatMul',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as QuantizedMatMulArgs;
    const backend = anyBackend as TensorFlowBackend;
    const {rows, cols, transposeWeight} = attrs;
    return runOps(backend, inputs, (ops, {x, ...tensors}) => {
      const read = (begin: number, end: number) => dequantize(ops, backend, tensors, attrs, begin, end);
      return [multiply(ops, x, {rows, cols, read}, transposeWeight, productsOf(backend))];
    })[0];
  },
} as const;
