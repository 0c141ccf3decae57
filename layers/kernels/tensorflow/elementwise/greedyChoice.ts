import {greedyChoiceOp} from '../../../ops/greedyChoice.ts';
import {opsKernel} from '../device/opsKernel.ts';

/** `GreedyChoice` (layers/ops/greedyChoice.ts), on a card. The places are exact in float32, which a card gives at once. */
export const greedyChoice = opsKernel(greedyChoiceOp, (ops, {logits}) =>
  ops.one('TfjsLoraGreedyChoice', [logits]),
);
