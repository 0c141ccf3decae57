import {labelLoss} from '../../training/losses/labelLoss.ts';
import {preferenceLoss} from '../../training/losses/preferenceLoss.ts';
import {rewardLoss} from '../../training/losses/rewardLoss.ts';
import type {TrainingLoss} from '../../training/losses/trainingLoss.ts';
import type {OpenedReference} from './openReference.ts';
import type {Recipe} from './recipe.ts';

/** Returns the loss of a recipe's stage; undefined for the model's own. */
export function lossOf(
  {data: {stage}, preference, labelLoss: label}: Recipe,
  {reference}: OpenedReference,
): TrainingLoss | undefined {
  if (stage === 'dpo') return preferenceLoss({...preference, reference});
  if (stage === 'rm') return rewardLoss();
  return label && labelLoss(label);
}
