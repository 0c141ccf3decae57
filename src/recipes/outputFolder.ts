import {readdir} from 'node:fs/promises';
import type {Recipe} from './recipe.ts';

/**
 * The checkpoint a run goes on from, as LLaMA-Factory decides it: what the recipe names; else, unless it says
 * `overwrite_output_dir`, the last one in a folder that holds some.
 *
 * @returns `true` for the last one; false for none
 */
export async function checkpointToResume({output}: Recipe): Promise<boolean | string> {
  const {folder, resumeFromCheckpoint, overwrite} = output;
  if (resumeFromCheckpoint !== undefined) return resumeFromCheckpoint;
  if (folder === undefined || overwrite) return false;
  const names = await readdir(folder).catch(() => []);
  return names.some((name) => /^checkpoint-\d+$/.test(name));
}
