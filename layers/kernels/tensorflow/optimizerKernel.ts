import * as tf from '@tensorflow/tfjs';
import {kernel} from '../kernel.ts';
import type {OptimizerStep, StepArray} from '../steps/optimizerStep.ts';

/** An optimizer's update on the host, rounded as its peer rounds; the addon copies the tensors there and back. */
export function optimizerKernel({op, inputs: sources, outputs, run}: OptimizerStep): tf.KernelConfig {
  return kernel(op, 'tensorflow', ({inputs, attrs, backend}) => {
    const targets = outputs.map((name) => {
      const size = tf.util.sizeFromShape(inputs[name].shape);
      return inputs[name].dtype === 'int32' ? new Int32Array(size) : new Float32Array(size);
    });
    run(
      sources.map((name) => backend.readSync(inputs[name].dataId) as StepArray),
      targets,
      attrs,
    );
    return targets.map((values, i) => {
      const {shape, dtype} = inputs[outputs[i]];
      return {dataId: backend.write(values, shape, dtype as 'float32'), shape, dtype};
    });
  });
}
