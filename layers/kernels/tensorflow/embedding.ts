import type * as tf from '@tensorflow/tfjs';
import type {HalfDtype} from '../../../quant/float16.ts';
import {keepOnCard} from './keepOnCard.ts';
import {runOps} from './runOps.ts';
import {DataType, type TensorFlowBackend} from './tensorflowBackend.ts';
import {halfRows} from './widen16.ts';

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
    keepOnCard(backend as TensorFlowBackend, {table: inputs.table});
    return runOps(backend as TensorFlowBackend, inputs, (ops, {ids, table}) => {
      const width = 2 * table.shape[1];
      const rows = ops.cast(ops.gather(halfRows(ops, table, attrs.dtype, width), ids), DataType.float32);
      return [attrs.cols === width ? rows : ops.slice(rows, [0, 0], [-1, attrs.cols])];
    })[0];
  },
} as const;
