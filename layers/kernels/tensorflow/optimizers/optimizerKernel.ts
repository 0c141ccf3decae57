import * as tf from '@tensorflow/tfjs';
import type {OptimizerRule} from '../../../ops/optimizerUpdates.ts';
import {kernel} from '../../kernel.ts';
import type {OptimizerStep, StepArray} from '../../steps/optimizerStep.ts';
import {runOps} from '../device/runOps.ts';
import {settingsOf} from '../device/tensorflowBackend.ts';
import {updatesOnCard} from './optimizerUpdates.ts';

/**
 * An optimizer's update, rounded as its peer rounds: on a card with its own op, otherwise on the host, where the addon
 * copies the tensors there and back.
 */
export function optimizerKernel({op, inputs: sources, outputs, run}: OptimizerStep): tf.KernelConfig {
  return kernel(op, 'tensorflow', ({inputs, attrs, backend}) => {
    if (settingsOf(backend).hasCardOps) {
      const rule = {rule: op.kernelName.replace(/Update$/, ''), settings: attrs} as OptimizerRule;
      const given = sources.map((name) => inputs[name]);
      return runOps(backend, given, (ops, handles) => updatesOnCard(ops, handles, rule));
    }
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
