import {checkpointToResume, noCheckpoint} from '../../training/checkpoints/resume.ts';
import {checkpointSteps} from '../../training/output/checkpointFolder.ts';
import type {OutputWishes, OutputWords} from '../../training/output/outputFolder.ts';
import type {Recipe} from './recipe.ts';

/** The command that runs the recipe again with other values of keys, `key=value`. */
export type CommandWith = (...overrides: string[]) => string;

/** Where there is no command line to repeat. */
export const sameRecipeWith: CommandWith = (...overrides) =>
  overrides.length === 0 ? 'run the same recipe again' : `run the same recipe with ${overrides.join(' ')}`;

/**
 * What is to become of an earlier run in the output folder, as LLaMA-Factory decides it: what `resume_from_checkpoint`
 * says; else, unless it says `overwrite_output_dir`, one that has checkpoints goes on. A recipe that trains nothing leaves it.
 */
export function outputWishes({fit, tasks}: Recipe): OutputWishes {
  const {outputDir: folder, resumeFromCheckpoint, overwriteOutputDir: overwrite} = fit;
  if (!tasks.train) return {resume: true};
  const goesOn = folder !== undefined && !overwrite && checkpointSteps(folder).length > 0;
  return {overwrite, resume: resumeFromCheckpoint ?? (goesOn ? true : undefined)};
}

export function outputWords({path}: Recipe, commandWith: CommandWith): OutputWords {
  return {
    what: `${path} output_dir`,
    advice({canGoOn, isUnfinished}) {
      const startOver = [
        'overwrite_output_dir=true',
        ...(isUnfinished ? ['resume_from_checkpoint=false'] : []),
      ];
      const goOn = canGoOn ? `\n  To resume: ${commandWith('resume_from_checkpoint=true')}` : '';
      return `${goOn}\n  To start over and remove it: ${commandWith(...startOver)}`;
    },
  };
}

/**
 * The checkpoint a recipe's training goes on from, or `false`.
 *
 * @throws TfjsLoraError `FILE_NOT_FOUND` where `resume_from_checkpoint` asks for one and there is none; `CORRUPT_FILE`
 */
export async function recipeCheckpoint(recipe: Recipe, commandWith: CommandWith): Promise<string | false> {
  const {tasks, path} = recipe;
  const {outputDir: folder} = recipe.fit;
  const {resume} = outputWishes(recipe);
  if (!tasks.train || !resume || folder === undefined) return false;
  const isHere = resume === true;
  const isEmpty = checkpointSteps(folder).length === 0;
  const over = isHere && !isEmpty ? ['overwrite_output_dir=true'] : [];
  const begin = commandWith(...over, 'resume_from_checkpoint=false');
  const words = {
    what: `${path} resume_from_checkpoint`,
    advice: ` Correct ${isHere ? 'output_dir' : 'the value'}.\n  To start without a checkpoint: ${begin}`,
  };
  if (isHere && isEmpty) throw noCheckpoint(folder, words);
  return (await checkpointToResume({resumeFromCheckpoint: resume, outputDir: folder}, words)) ?? false;
}
