import {type AdamWSettings, adamWUpdateOp} from '../../ops/adamWUpdate.ts';
import type {OptimizerStep} from './optimizerStep.ts';

/** `AdamWUpdate` (layers/ops/adamWUpdate.ts) in one pass. */
export const adamWStep: OptimizerStep<AdamWSettings> = {
  op: adamWUpdateOp,
  inputs: ['value', 'gradient', 'mean', 'variance'],
  outputs: ['value', 'mean', 'variance'],
  run([value, gradient, mean, variance], [nextValue, nextMean, nextVariance], settings) {
    const {learningRate, beta1, beta2, epsilon, weightDecay, step} = settings;
    const keep = 1 - learningRate * weightDecay;
    const stepSize = learningRate / (1 - beta1 ** step);
    const correction = Math.sqrt(1 - beta2 ** step);
    for (let i = 0; i < value.length; i++) {
      const m = beta1 * mean[i] + (1 - beta1) * gradient[i];
      const v = beta2 * variance[i] + (1 - beta2) * gradient[i] * gradient[i];
      nextMean[i] = m;
      nextVariance[i] = v;
      nextValue[i] = keep * value[i] - (stepSize * m) / (Math.sqrt(v) / correction + epsilon);
    }
  },
};
