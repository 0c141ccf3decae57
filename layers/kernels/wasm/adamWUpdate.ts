import * as tf from '@tensorflow/tfjs';
import type {AdamWSettings} from '../../ops/adamWUpdate.ts';
import {adamWStep} from '../adamWStep.ts';
import {memoryOf, offsetOf, type WasmBackend} from './wasmBackend.ts';

interface AdamWUpdateArgs {
  inputs: Record<'value' | 'gradient' | 'mean' | 'variance', tf.TensorInfo>;
  attrs: AdamWSettings;
  backend: unknown;
}

/** `AdamWUpdate` (layers/ops/adamWUpdate.ts) in one pass over the backend's memory: no product, so no C. */
export const adamWUpdate = {
  kernelName: 'AdamWUpdate',
  backendName: 'wasm',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as AdamWUpdateArgs;
    const backend = anyBackend as WasmBackend;
    const {value, gradient, mean, variance} = inputs;
    const outputs = [value, mean, variance].map(({shape}) => backend.makeOutput(shape, 'float32'));
    const {buffer} = memoryOf(backend); // only now: making an output may have grown it
    const size = tf.util.sizeFromShape(value.shape);
    const valuesOf = (info: tf.TensorInfo) => new Float32Array(buffer, offsetOf(backend, info), size);
    adamWStep(
      [valuesOf(value), valuesOf(gradient), valuesOf(mean), valuesOf(variance)],
      [valuesOf(outputs[0]), valuesOf(outputs[1]), valuesOf(outputs[2])],
      attrs,
    );
    return outputs;
  },
} as const;
