import type * as tf from '@tensorflow/tfjs';
import type {HalfDtype} from '../../../quant/float16.ts';
import {runOps} from './runOps.ts';
import {DataType, type TensorFlowBackend} from './tensorflowBackend.ts';

interface EmbeddingArgs {
  inputs: {ids: tf.TensorInfo; table: tf.TensorInfo};
  attrs: {dtype: HalfDtype; cols: number};
  backend: unknown;
}

/** `Embedding` (layers/ops/embedding.ts): rows are picked in 16 bits, and only they are widened. */
export const embedding = {
  kernelName: 'Embedding',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as EmbeddingArgs;
    return runOps(backend as TensorFlowBackend, inputs, (ops, {ids, table}) => {
      const [count] = ids.shape;
      const words = table.shape[1];
      const halves = ops.gather(ops.bitcast(table, DataType[attrs.dtype]), ids); // [count, words, 2]
      const rows = ops.cast(ops.reshape(halves, [count, 2 * words]), DataType.float32);
      return [attrs.cols === 2 * words ? rows : ops.slice(rows, [0, 0], [-1, attrs.cols])];
    })[0];
  },
} as const;
