import * as tf from '@tensorflow/tfjs';
import {kernel} from '../kernel.ts';
import type {OptimizerStep} from '../steps/optimizerStep.ts';
import {memoryOf, offsetOf} from './wasmBackend.ts';

/**
 * Makes an optimizer's update a kernel of the `wasm` backend, over its memory. There is no product, so it needs no C.
 */
export function optimizerKernel({op, inputs: sources, outputs, run}: OptimizerStep): tf.KernelConfig {
  return kernel(op, 'wasm', ({inputs, attrs, backend}) => {
    const made = outputs.map((name) => backend.makeOutput(inputs[name].shape, inputs[name].dtype));
    const {buffer} = memoryOf(backend); // read only now, because making an output may have grown it
    const valuesOf = (info: tf.TensorInfo) => {
      const Values = info.dtype === 'int32' ? Int32Array : Float32Array;
      return new Values(buffer, offsetOf(backend, info), tf.util.sizeFromShape(info.shape));
    };
    run(
      sources.map((name) => valuesOf(inputs[name])),
      made.map(valuesOf),
      attrs,
    );
    return made;
  });
}
