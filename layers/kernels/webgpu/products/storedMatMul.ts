import type * as tf from '@tensorflow/tfjs';
import type {StorageDtype} from '../../../../quant/float16.ts';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {storedFormat} from '../weights/weightFormat.ts';
import {multiply} from './multiply.ts';

interface StoredMatMulArgs {
  inputs: {x: tf.TensorInfo; weight: tf.TensorInfo};
  attrs: {dtype: StorageDtype; rows: number; cols: number; transposeWeight: boolean};
  backend: unknown;
}

/** `StoredMatMul` (layers/ops/storedMatMul.ts): the weight is widened inside the product. */
export const storedMatMul = {
  kernelName: 'StoredMatMul',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as StoredMatMulArgs;
    const {dtype, rows, cols, transposeWeight} = attrs;
    const weight = storedFormat(inputs.weight, dtype, cols);
    return multiply(backend as WebGPUBackend, {x: inputs.x, weight, rows, cols, transposeWeight});
  },
} as const;
