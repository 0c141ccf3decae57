import {lion8bitUpdateOp} from '../../ops/lion8bitUpdate.ts';
import type {LionSettings} from '../../ops/lionUpdate.ts';
import {Blockwise8bitChunks, eachChunk} from './blockwise8bitChunks.ts';
import type {OptimizerStep} from './optimizerStep.ts';

/** `Lion8bitUpdate` (layers/ops/lion8bitUpdate.ts), rounded where bitsandbytes rounds on the CPU. */
export const lion8bitStep: OptimizerStep<LionSettings> = {
  op: lion8bitUpdateOp,
  inputs: ['value', 'gradient', 'momentumCodes', 'momentumAbsmax'],
  outputs: ['value', 'momentumCodes', 'momentumAbsmax'],
  run([value, gradient, codes, absmax], [nextValue, nextCodes, nextAbsmax], settings) {
    const {learningRate, weightDecay} = settings;
    const {fround} = Math;
    const momentum = new Blockwise8bitChunks(
      'Lion8bit momentum',
      true,
      {codes, absmax},
      {codes: nextCodes, absmax: nextAbsmax},
      value.length,
    );
    const [beta1, beta2] = [fround(settings.beta1), fround(settings.beta2)];
    const [share1, share2] = [fround(1 - settings.beta1), fround(1 - settings.beta2)];
    const [keep, rate] = [fround(1 - learningRate * weightDecay), fround(learningRate)];
    eachChunk(value.length, (begin, end) => {
      momentum.load(begin, end);
      for (let i = begin, at = 0; i < end; i++, at++) {
        const [m, g] = [momentum.values[at], gradient[i]];
        const sum = fround(fround(m * beta1) + fround(g * share1));
        const move = sum > 0 ? rate : sum < 0 ? -rate : sum; // 0 stays 0, NaN stays NaN
        momentum.values[at] = fround(m * beta2) + share2 * g;
        nextValue[i] = fround(value[i] * keep) - move;
      }
      momentum.store(begin, end);
    });
  },
};
