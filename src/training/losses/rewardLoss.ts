import * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../../models/batchLoss.ts';
import {lastTokens} from '../../../models/lastTokens.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {countPairs} from './countPairs.ts';
import type {BatchLoss, LossModel, TrainingLoss} from './trainingLoss.ts';

/**
 * Makes the loss of reward models: `model.addValueHead().compile({loss: rewardLoss()})`, whose data are pairs of a chosen
 * and a rejected answer. The value head scores the last token of each, and the loss of a pair is
 * `−log sigmoid(chosen − rejected)`, as in LLaMA-Factory's stage `rm`.
 */
export function rewardLoss(): TrainingLoss {
  return REWARD_LOSS;
}

const REWARD_LOSS: TrainingLoss = {
  name: 'rewardLoss',
  metrics: ['accuracy'],
  measures: ['correct', 'pairs'],
  exampleKind: 'pair',
  averagesBatches: true,

  assertFits({values, valueHead}: LossModel): void {
    if (values && valueHead) return;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      'compile loss rewardLoss: expected a model with a value head, got one without. ' +
        'Call addValueHead() or loadValueHead(folder, {trainable: true}) first.',
    );
  },

  count: (_model: LossModel, batch: Batch) => countPairs('rewardLoss', batch),

  summarize: ({correct, pairs}) => ({accuracy: correct / pairs}),

  compute(model: LossModel, batch: Batch, pass: {training?: boolean; seed?: number}): BatchLoss {
    const scores = model.values!(batch, {...pass, at: lastTokens(batch)}); // [2B]
    const [chosen, rejected] = tf.split(scores, 2);
    const correct = tf.sum(tf.greater(chosen, rejected).toFloat());
    return {
      loss: tf.sum(tf.softplus(tf.sub(rejected, chosen))) as tf.Scalar, // −log sigmoid(x) = softplus(−x)
      metrics: tf.stack([correct, tf.scalar(chosen.size)]) as tf.Tensor1D,
    };
  },
};
