import type * as tf from '@tensorflow/tfjs';
import {kernel} from '../kernel.ts';
import type {OptimizerStep, StepArray} from '../steps/optimizerStep.ts';

/** Makes an optimizer's update a kernel of the `cpu` backend. */
export function optimizerKernel({op, inputs: sources, outputs, run}: OptimizerStep): tf.KernelConfig {
  return kernel(op, 'cpu', ({inputs, attrs, backend}) => {
    const valuesOf = (name: string) => backend.data.get(inputs[name].dataId).values as StepArray;
    const targets = outputs.map((name) => {
      const {length} = valuesOf(name);
      return inputs[name].dtype === 'int32' ? new Int32Array(length) : new Float32Array(length);
    });
    run(sources.map(valuesOf), targets, attrs);
    return targets.map((values, i) => {
      const {shape, dtype} = inputs[outputs[i]];
      return backend.makeTensorInfo(shape, dtype, values);
    });
  });
}
