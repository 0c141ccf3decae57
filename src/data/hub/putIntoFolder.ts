import {copyFile, link, readdir, realpath, rename, rm} from 'node:fs/promises';
import {join, resolve} from 'node:path';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {makeFolder} from '../../../quant/safetensors/makeFolder.ts';
import {show} from '../../../quant/show.ts';
import {randomName} from './unfinishedFile.ts';

/**
 * Puts the files of a snapshot into a folder. Weights are hard links to the cache's file where the disk allows it, so
 * that they take no room twice; other files are copies, which may be edited. A file that exists is replaced at once.
 *
 * @param snapshot the folder of the snapshot in the hub's cache
 * @param folder a new or empty folder, or one that has only these files, as a former call leaves it
 * @throws TfjsLoraError `INVALID_ARGUMENT` when the folder has other files
 */
export async function putIntoFolder(snapshot: string, folder: string): Promise<void> {
  const names = await readdir(snapshot);
  makeFolder(folder);
  const others = (await readdir(folder)).filter((name) => !names.includes(name) && !UNFINISHED.test(name));
  if (others.length > 0) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `folder ${resolve(folder)}: expected a new or empty folder, or one with this repository's files, ` +
        `got ${show(others[0])} in it. Name another folder.`,
    );
  }
  const isConfig = (name: string) => name === 'config.json' || name === 'adapter_config.json';
  for (const name of names.toSorted((a, b) => Number(isConfig(a)) - Number(isConfig(b)))) {
    const source = await realpath(join(snapshot, name));
    const unfinished = join(folder, `${name}.${randomName()}.incomplete`);
    try {
      await (name.endsWith('.safetensors')
        ? link(source, unfinished).catch(() => copyFile(source, unfinished))
        : copyFile(source, unfinished));
      await rename(unfinished, join(folder, name));
    } finally {
      await rm(unfinished, {force: true}); // two names of one file are left as they are by rename
    }
  }
}

/** A file that an interrupted call left. */
const UNFINISHED = /\.incomplete$/;
