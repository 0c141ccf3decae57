import type * as tf from '@tensorflow/tfjs';
import {unpackRows} from '../../../quant/float16.ts';

interface CpuBackend {
  data: {get(dataId: tf.DataId): {values: tf.BackendValues}};
  makeTensorInfo(shape: number[], dtype: tf.DataType, values: tf.BackendValues): tf.TensorInfo;
}

interface Unpack16Args {
  inputs: {packed: tf.TensorInfo};
  attrs: {dtype: 'bfloat16' | 'float16'; cols: number};
  backend: unknown;
}

/** `Unpack16` (layers/ops/unpack16.ts) in one pass. */
export const unpack16 = {
  kernelName: 'Unpack16',
  backendName: 'cpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as Unpack16Args;
    const backend = anyBackend as CpuBackend;
    const [rows] = inputs.packed.shape;
    const packed = backend.data.get(inputs.packed.dataId).values as Int32Array;
    return backend.makeTensorInfo(
      [rows, attrs.cols],
      'float32',
      unpackRows(packed, rows, attrs.cols, attrs.dtype),
    );
  },
} as const;
