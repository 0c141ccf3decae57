import type * as tf from '@tensorflow/tfjs';
import type {HalfDtype} from '../../../quant/float16.ts';
import {runOps} from './runOps.ts';
import {DataType, type TensorFlowBackend} from './tensorflowBackend.ts';

interface Pack16Args {
  inputs: {value: tf.TensorInfo};
  attrs: {dtype: HalfDtype};
  backend: unknown;
}

/** `Pack16` (layers/ops/pack16.ts): a cast and a bitcast. */
export const pack16 = {
  kernelName: 'Pack16',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as Pack16Args;
    return runOps(backend as TensorFlowBackend, inputs, (ops, {value}) => {
      const [rows, cols] = value.shape;
      const rounded = ops.cast(value, DataType[attrs.dtype]);
      const even = cols % 2 === 0 ? rounded : ops.padEnd(rounded, [0, 1]);
      return [ops.bitcast(ops.reshape(even, [rows, Math.ceil(cols / 2), 2]), DataType.int32)];
    })[0];
  },
} as const;
