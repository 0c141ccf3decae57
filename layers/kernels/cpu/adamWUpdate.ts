import type * as tf from '@tensorflow/tfjs';
import type {AdamWSettings} from '../../ops/adamWUpdate.ts';
import {adamWStep} from '../adamWStep.ts';

interface CpuBackend {
  data: {get(dataId: tf.DataId): {values: tf.BackendValues}};
  makeTensorInfo(shape: number[], dtype: tf.DataType, values: tf.BackendValues): tf.TensorInfo;
}

interface AdamWUpdateArgs {
  inputs: Record<'value' | 'gradient' | 'mean' | 'variance', tf.TensorInfo>;
  attrs: AdamWSettings;
  backend: unknown;
}

/** `AdamWUpdate` (layers/ops/adamWUpdate.ts) in one pass. */
export const adamWUpdate = {
  kernelName: 'AdamWUpdate',
  backendName: 'cpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as AdamWUpdateArgs;
    const backend = anyBackend as CpuBackend;
    const valuesOf = ({dataId}: tf.TensorInfo) => backend.data.get(dataId).values as Float32Array;
    const {value, gradient, mean, variance} = inputs;
    const sources = [valuesOf(value), valuesOf(gradient), valuesOf(mean), valuesOf(variance)] as const;
    const make = () => new Float32Array(sources[0].length);
    const targets: [Float32Array, Float32Array, Float32Array] = [make(), make(), make()];
    adamWStep([...sources], targets, attrs);
    return targets.map((values) => backend.makeTensorInfo(value.shape, 'float32', values));
  },
} as const;
