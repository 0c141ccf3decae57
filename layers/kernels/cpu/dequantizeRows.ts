import type * as tf from '@tensorflow/tfjs';
import {type FourBitStorage, hostMatrix, type Int8Storage} from '../../ops/quantizedStorage.ts';

interface CpuBackend {
  data: {get(dataId: tf.DataId): {values: tf.BackendValues}};
  makeTensorInfo(shape: number[], dtype: tf.DataType, values: tf.BackendValues): tf.TensorInfo;
}

interface DequantizeRowsArgs {
  inputs: Record<string, tf.TensorInfo>;
  attrs: (Omit<FourBitStorage, 'tensors'> | Omit<Int8Storage, 'tensors'>) & {begin: number; end: number};
  backend: unknown;
}

/** `DequantizeRows` (layers/ops/dequantizeRows.ts), over the tensors' own memory. */
export const dequantizeRows = {
  kernelName: 'DequantizeRows',
  backendName: 'cpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as DequantizeRowsArgs;
    const backend = anyBackend as CpuBackend;
    const {begin, end, cols} = attrs;
    const contents = Object.entries(inputs).map(([name, {dataId}]) => [
      name,
      backend.data.get(dataId).values as Int32Array | Float32Array,
    ]);
    const values = hostMatrix(attrs, 'float32', Object.fromEntries(contents)).dequantizeRows(begin, end);
    return backend.makeTensorInfo([end - begin, cols], 'float32', values);
  },
} as const;
