import {type LionSettings, lionUpdateOp} from '../../ops/lionUpdate.ts';
import type {OptimizerStep} from './optimizerStep.ts';

/** `LionUpdate` (layers/ops/lionUpdate.ts) in one pass, with the peer's roundings, because they may decide a sign. */
export const lionStep: OptimizerStep<LionSettings> = {
  op: lionUpdateOp,
  inputs: ['value', 'gradient', 'momentum'],
  outputs: ['value', 'momentum'],
  run([value, gradient, momentum], [nextValue, nextMomentum], {learningRate, weightDecay, ...betas}) {
    const {fround} = Math;
    const [beta1, beta2] = [fround(betas.beta1), fround(betas.beta2)];
    const [share1, share2] = [fround(1 - betas.beta1), fround(1 - betas.beta2)];
    const [keep, rate] = [fround(1 - learningRate * weightDecay), fround(learningRate)];
    for (let i = 0; i < value.length; i++) {
      const sum = fround(fround(momentum[i] * beta1) + share1 * gradient[i]);
      const move = sum > 0 ? rate : sum < 0 ? -rate : sum; // 0 stays 0, NaN stays NaN
      nextMomentum[i] = fround(momentum[i] * beta2) + share2 * gradient[i];
      nextValue[i] = fround(value[i] * keep) - move;
    }
  },
};
