import {newestCheckpoint} from '../../training/output/checkpointFolder.ts';
import {openRunFolder} from '../../training/output/diskRunFolder.ts';
import {trainedRecipe} from './modelInUse.ts';
import type {CommandWith} from './outputWishes.ts';
import type {Recipe} from './recipe.ts';

/** The phase of a run when it was stopped. */
export type Phase = 'loading' | 'training' | 'evaluation' | 'prediction';

/** Describes what a stopped run has saved, with the command that resumes it. */
export async function stopMessage(recipe: Recipe, phase: Phase, commandWith: CommandWith): Promise<string> {
  const {tasks, fit} = recipe;
  if (phase === 'training') {
    const newest = await newestCheckpoint(openRunFolder(fit.outputDir!));
    return newest === undefined
      ? `stopped before anything was saved\n  To start again: ${commandWith()}`
      : `stopped; ${newest.path} is saved\n  To resume: ${commandWith('resume_from_checkpoint=true')}`;
  }
  if (phase === 'loading' || !tasks.train) {
    const when =
      phase !== 'loading' ? `in the ${phase}` : `before the ${tasks.train ? 'first step' : 'start'}`;
    return `stopped ${when}; nothing was written\n  To start again: ${commandWith()}`;
  }
  const {nameOrPath, adapters} = (await trainedRecipe(recipe)).model;
  const trained =
    recipe.method === 'lora'
      ? `adapter_name_or_path=${adapters.join(',')}`
      : `model_name_or_path=${nameOrPath}`;
  return `stopped in the ${phase}; the training is finished\n  To resume: ${commandWith('do_train=false', trained)}`;
}
