import type * as tf from '@tensorflow/tfjs';
import type {HalfDtype} from '../../../quant/float16.ts';
import {keepOnCard} from './keepOnCard.ts';
import {runOps} from './runOps.ts';
import type {TensorFlowBackend} from './tensorflowBackend.ts';
import {widen16} from './widen16.ts';

interface Unpack16Args {
  inputs: {packed: tf.TensorInfo};
  attrs: {dtype: HalfDtype; cols: number};
  backend: unknown;
}

/** `Unpack16` (layers/ops/unpack16.ts): a bitcast and a cast. */
export const unpack16 = {
  kernelName: 'Unpack16',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as Unpack16Args;
    keepOnCard(backend as TensorFlowBackend, inputs);
    return runOps(backend as TensorFlowBackend, inputs, (ops, {packed}) => [
      widen16(ops, packed, attrs.dtype, attrs.cols),
    ])[0];
  },
} as const;
