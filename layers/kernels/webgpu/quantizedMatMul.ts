import type * as tf from '@tensorflow/tfjs';
import {multiply} from './multiply.ts';
import type {QuantizedAttributes, QuantizedInputs} from './quantizedFormat.ts';
import {usingQuantized} from './usingWeight.ts';
import type {WebGPUBackend} from './webgpuBackend.ts';

interface QuantizedMatMulArgs {
  inputs: QuantizedInputs & {x: tf.TensorInfo};
  attrs: QuantizedAttributes & {transposeWeight: boolean};
  backend: unknown;
}

/** `QuantizedMatMul` (layers/ops/quantizedMatMul.ts). */
export const quantizedMatMul = {
  kernelName: 'QuantizedMatMul',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as QuantizedMatMulArgs;
    const backend = anyBackend as WebGPUBackend;
    const {rows, cols, transposeWeight} = attrs;
    const {x} = inputs;
    return usingQuantized(backend, inputs, attrs, x.shape[0], (weight) =>
      multiply(backend, {x, weight, rows, cols, transposeWeight}),
    );
  },
} as const;
