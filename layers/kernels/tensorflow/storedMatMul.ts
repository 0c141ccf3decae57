import type * as tf from '@tensorflow/tfjs';
import type {HalfDtype} from '../../../quant/float16.ts';
import {multiply} from './multiply.ts';
import {runOps} from './runOps.ts';
import {productsOf, type TensorFlowBackend} from './tensorflowBackend.ts';
import {halfRows} from './widen16.ts';

interface StoredMatMulArgs {
  inputs: {x: tf.TensorInfo; weight: tf.TensorInfo};
  attrs: {dtype: HalfDtype; rows: number; cols: number; transposeWeight: boolean};
  backend: unknown;
}

/** `StoredMatMul` (layers/ops/storedMatMul.ts): a bfloat16 weight is multiplied as it lies when products are in bfloat16. */
export const storedMatMul = {
  kernelName: 'StoredMatMul',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as StoredMatMulArgs;
    const backend = anyBackend as TensorFlowBackend;
    const {dtype, rows, cols, transposeWeight} = attrs;
    return runOps(backend, inputs, (ops, {x, weight}) => {
      const read = (begin: number, end: number) => {
        const tile = end - begin < rows ? ops.slice(weight, [begin, 0], [end - begin, -1]) : weight;
        return halfRows(ops, tile, dtype, cols);
      };
      return [multiply(ops, x, {rows, cols, read}, transposeWeight, productsOf(backend))];
    })[0];
  },
} as const;
