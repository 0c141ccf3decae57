import {TfjsLoraError} from '../../../quant/errors.ts';
import {ktoLoss} from '../../training/losses/ktoLoss.ts';
import {labelLoss} from '../../training/losses/labelLoss.ts';
import {ppoLoss} from '../../training/losses/ppoLoss.ts';
import {preferenceLoss} from '../../training/losses/preferenceLoss.ts';
import {rewardLoss} from '../../training/losses/rewardLoss.ts';
import type {TrainingLoss} from '../../training/losses/trainingLoss.ts';
import type {OpenedReference} from './openReference.ts';
import type {OpenedRewards} from './openRewards.ts';
import type {Recipe} from './recipe.ts';

/** Returns the loss of a recipe's stage; undefined for the model's own. */
export function lossOf(
  {data: {stage}, preference, kto, ppo, generation, path, labelLoss: label}: Recipe,
  {reference}: OpenedReference,
  opened?: OpenedRewards,
): TrainingLoss | undefined {
  if (stage === 'dpo') return preferenceLoss({...preference, reference});
  if (stage === 'kto') return ktoLoss({...kto, reference});
  if (stage === 'rm') return rewardLoss();
  if (stage !== 'ppo') return label && labelLoss({...label, ...(label.type === 'asft' && {reference})});
  if (!opened)
    throw new TfjsLoraError('INVALID_CONFIG', `${path} reward_model: expected a reward model, got none`);
  const {maxNewTokens, temperature, topK, topP, repetitionPenalty} = generation;
  const sampling = {maxNewTokens, temperature, topK, topP, repetitionPenalty};
  return ppoLoss({...ppo, ...sampling, reference, rewards: opened.rewards});
}
