import type * as tf from '@tensorflow/tfjs';
import {keepOnCard} from './keepOnCard.ts';
import {multiply} from './multiply.ts';
import {runOps} from './runOps.ts';
import {productsOf, type TensorFlowBackend, tileElementsOf} from './tensorflowBackend.ts';
import {type WeightAttributes, type WeightInputs, weightRows} from './weightRows.ts';

interface StoredMatMulArgs {
  inputs: {x: tf.TensorInfo} & WeightInputs;
  attrs: WeightAttributes & {transposeWeight: boolean};
  backend: unknown;
}

const kernelFunc = (args: unknown) => {
  const {inputs, attrs, backend: anyBackend} = args as StoredMatMulArgs;
  const backend = anyBackend as TensorFlowBackend;
  keepOnCard(backend, inputs);
  return runOps(backend, inputs, (ops, {x, ...tensors}) => {
    const weight = weightRows(ops, backend, tensors, attrs);
    return [multiply(ops, x, weight, attrs.transposeWeight, productsOf(backend), tileElementsOf(backend))];
  })[0];
};

/** `StoredMatMul` (layers/ops/storedMatMul.ts): a bfloat16 weight is multiplied as it lies when products are in bfloat16. */
export const storedMatMul = {kernelName: 'StoredMatMul', backendName: 'tensorflow', kernelFunc} as const;

/** `QuantizedMatMul` (layers/ops/quantizedMatMul.ts): dequantized tile by tile, before the product of each. */
export const quantizedMatMul = {
  kernelName: 'QuantizedMatMul',
  backendName: 'tensorflow',
  kernelFunc,
} as const;
