import {checkpointToResume, noCheckpoint} from '../../training/checkpoints/resume.ts';
import {checkpointSteps} from '../../training/output/checkpointFolder.ts';
import {openRunFolder} from '../../training/output/diskRunFolder.ts';
import type {OutputWishes, OutputWords} from '../../training/output/outputFolder.ts';
import type {Recipe} from './recipe.ts';

/** Returns the command that runs the recipe again with other values of keys, `key=value`. */
export type CommandWith = (...overrides: string[]) => string;

/** The advice if there is no command line to repeat. */
export const sameRecipeWith: CommandWith = (...overrides) =>
  overrides.length === 0 ? 'run the same recipe again' : `run the same recipe with ${overrides.join(' ')}`;

/**
 * Returns what a recipe wants done with an earlier run in its output folder, as LLaMA-Factory decides it:
 * `resume_from_checkpoint` is followed if given; otherwise a run with checkpoints is resumed, unless
 * `overwrite_output_dir` is true. A recipe that trains nothing does not change the run.
 */
export async function outputWishes({fit, tasks}: Recipe): Promise<OutputWishes> {
  const {outputDir: folder, resumeFromCheckpoint, overwriteOutputDir: overwrite} = fit;
  if (!tasks.train) return {resume: true};
  const resumes =
    folder !== undefined && !overwrite && (await checkpointSteps(openRunFolder(folder))).length > 0;
  return {overwrite, resume: resumeFromCheckpoint ?? (resumes ? true : undefined)};
}

export function outputWords({path}: Recipe, commandWith: CommandWith): OutputWords {
  return {
    what: `${path} output_dir`,
    advice({canGoOn, isUnfinished}) {
      const startOver = [
        'overwrite_output_dir=true',
        ...(isUnfinished ? ['resume_from_checkpoint=false'] : []),
      ];
      const resume = canGoOn ? `\n  To resume: ${commandWith('resume_from_checkpoint=true')}` : '';
      return `${resume}\n  To start over and remove it: ${commandWith(...startOver)}`;
    },
  };
}

/**
 * Returns the folder of the checkpoint that a recipe's training resumes from, or `false`.
 *
 * @throws TfjsLoraError `FILE_NOT_FOUND` when `resume_from_checkpoint` requires a checkpoint and there is none;
 *   `CORRUPT_FILE`
 */
export async function recipeCheckpoint(recipe: Recipe, commandWith: CommandWith): Promise<string | false> {
  const {tasks, path} = recipe;
  const {outputDir} = recipe.fit;
  const {resume} = await outputWishes(recipe);
  if (!tasks.train || !resume || outputDir === undefined) return false;
  const folder = openRunFolder(outputDir);
  const isHere = resume === true;
  const isEmpty = (await checkpointSteps(folder)).length === 0;
  const over = isHere && !isEmpty ? ['overwrite_output_dir=true'] : [];
  const begin = commandWith(...over, 'resume_from_checkpoint=false');
  const words = {
    what: `${path} resume_from_checkpoint`,
    advice: ` Correct ${isHere ? 'output_dir' : 'the value'}.\n  To start without a checkpoint: ${begin}`,
  };
  if (isHere && isEmpty) throw await noCheckpoint(folder, words);
  const checkpoint = await checkpointToResume({resumeFromCheckpoint: resume, outputDir}, words);
  return checkpoint?.path ?? false;
}
