import {preferenceLoss} from '../../training/losses/preferenceLoss.ts';
import type {TrainingLoss} from '../../training/losses/trainingLoss.ts';
import type {OpenedReference} from './openReference.ts';
import type {Recipe} from './recipe.ts';

/** Returns the loss of a recipe's stage; undefined for the model's own. */
export function lossOf(
  {data: {stage}, preference}: Recipe,
  {reference}: OpenedReference,
): TrainingLoss | undefined {
  return stage === 'dpo' ? preferenceLoss({...preference, reference}) : undefined;
}
