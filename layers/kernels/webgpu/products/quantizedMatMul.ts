import type * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import type {QuantizedAttributes, QuantizedInputs} from '../weights/quantizedFormat.ts';
import {usingQuantized} from '../weights/usingWeight.ts';
import {multiply} from './multiply.ts';

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
