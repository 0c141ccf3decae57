import {adamW8bitUpdateOp} from '../../ops/adamW8bitUpdate.ts';
import type {AdamWSettings} from '../../ops/adamWUpdate.ts';
import {Blockwise8bitChunks, eachChunk} from './blockwise8bitChunks.ts';
import type {OptimizerStep} from './optimizerStep.ts';

/**
 * `AdamW8bitUpdate` (layers/ops/adamW8bitUpdate.ts), rounded where bitsandbytes rounds on the CPU, so that the codes
 * are equal: the sum of a number and a product is rounded once there, as a fused multiply-add.
 */
export const adamW8bitStep: OptimizerStep<AdamWSettings> = {
  op: adamW8bitUpdateOp,
  inputs: ['value', 'gradient', 'meanCodes', 'meanAbsmax', 'varianceCodes', 'varianceAbsmax'],
  outputs: ['value', 'meanCodes', 'meanAbsmax', 'varianceCodes', 'varianceAbsmax'],
  run([value, gradient, ...states], [nextValue, ...nextStates], settings) {
    const {learningRate, epsilon, weightDecay, step} = settings;
    const {fround} = Math;
    const chunksOf = (name: string, isSigned: boolean, at: number) =>
      new Blockwise8bitChunks(
        `AdamW8bit ${name}`,
        isSigned,
        {codes: states[at], absmax: states[at + 1]},
        {codes: nextStates[at], absmax: nextStates[at + 1]},
        value.length,
      );
    const mean = chunksOf('mean', true, 0);
    const variance = chunksOf('variance', false, 2);
    const [beta1, beta2] = [fround(settings.beta1), fround(settings.beta2)];
    const [share1, share2] = [fround(1 - settings.beta1), fround(1 - settings.beta2)];
    const keep = fround(1 - learningRate * weightDecay);
    const stepSize = fround(-learningRate / (1 - settings.beta1 ** step));
    const correction = fround(Math.sqrt(1 - settings.beta2 ** step));
    const floor = fround(epsilon);
    eachChunk(value.length, (begin, end) => {
      mean.load(begin, end);
      variance.load(begin, end);
      for (let i = begin, at = 0; i < end; i++, at++) {
        const g = gradient[i];
        const m = fround(fround(mean.values[at] * beta1) + share1 * g);
        const v = fround(fround(variance.values[at] * beta2) + fround(share2 * g) * g);
        const denominator = fround(fround(fround(Math.sqrt(v)) / correction) + floor);
        mean.values[at] = m;
        variance.values[at] = v;
        nextValue[i] = fround(value[i] * keep) + fround(fround(stepSize * m) / denominator);
      }
      mean.store(begin, end);
      variance.store(begin, end);
    });
  },
};
