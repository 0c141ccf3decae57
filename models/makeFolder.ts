import {mkdir} from 'node:fs/promises';
import {resolve} from 'node:path';
import {TfjsLoraError} from '../quant/errors.ts';

/**
 * Makes sure that a folder to write into is there.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` when there is none and none can be made
 */
export async function makeFolder(folder: string): Promise<void> {
  try {
    await mkdir(folder, {recursive: true});
  } catch (error) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `folder ${resolve(folder)}: expected a folder to write into, got ${(error as Error).message}. Choose another.`,
      {cause: error},
    );
  }
}
