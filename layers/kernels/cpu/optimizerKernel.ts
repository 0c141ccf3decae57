import type * as tf from '@tensorflow/tfjs';
import type {OptimizerKernelArgs, OptimizerStep, StepArray} from '../steps/optimizerStep.ts';

interface CpuBackend {
  data: {get(dataId: tf.DataId): {values: tf.BackendValues}};
  makeTensorInfo(shape: number[], dtype: tf.DataType, values: tf.BackendValues): tf.TensorInfo;
}

/** An optimizer's update as a kernel of the `cpu` backend. */
export function optimizerKernel({kernelName, inputs: sources, outputs, run}: OptimizerStep): tf.KernelConfig {
  return {
    kernelName,
    backendName: 'cpu',
    kernelFunc: (args: unknown) => {
      const {inputs, attrs, backend: anyBackend} = args as OptimizerKernelArgs;
      const backend = anyBackend as CpuBackend;
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
    },
  };
}
