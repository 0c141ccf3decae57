import * as tf from '@tensorflow/tfjs';
import {op, type Tensors} from '../../ops/op.ts';
import {stockKernel} from '../kernel.ts';

/** `Identity`, which `clone` and everything saved for backward uses, without the stock kernel's copy of the data. */
export const identity = stockKernel(
  op<Tensors<'x'>>(tf.Identity),
  'wasm',
  ({inputs: {x}, backend}, stock) => {
    const {dataId, shape, dtype} = x;
    if (dtype === 'string') return stock();
    backend.incRef(dataId);
    return {dataId, shape, dtype};
  },
);
