import type {PreferenceLossType} from '../../training/losses/preferenceLoss.ts';

/** Whether a preference loss compares with a reference. */
export const hasReference = (loss: PreferenceLossType): boolean => loss !== 'orpo' && loss !== 'simpo';

/** Whether a training of this stage compares the model with a reference. */
export const usesReference = (stage: string, loss: PreferenceLossType, isAsft: boolean): boolean =>
  isAsft || stage === 'kto' || stage === 'ppo' || (stage === 'dpo' && hasReference(loss));
