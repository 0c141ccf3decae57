import {greedyChoiceOp} from '../../../ops/greedyChoice.ts';
import {opsKernel} from '../device/opsKernel.ts';

/**
 * `GreedyChoice` (layers/ops/greedyChoice.ts), on a card. It computes indices in float32, which is exact and stays on
 * the card.
 */
export const greedyChoice = opsKernel(greedyChoiceOp, (ops, {logits}) =>
  ops.one('TfjsLoraGreedyChoice', [logits]),
);
