import {mkdirSync, statSync} from 'node:fs';
import {dirname} from 'node:path';

/**
 * Makes a folder and those above it. Does nothing if it exists. Node's own `recursive: true` never returns where nothing
 * can be made, such as in `/proc`: it tries again for ever when a folder is missing although its parent exists.
 *
 * @throws the system's error when it cannot be made
 */
export function makeFolder(path: string): void {
  try {
    makeOne(path);
  } catch (error) {
    const parent = dirname(path);
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || parent === path) throw error;
    makeFolder(parent); // it may exist by now, if another process makes the same folders
    makeOne(path);
  }
}

/** Makes a folder in one that exists. */
function makeOne(path: string): void {
  try {
    mkdirSync(path);
  } catch (error) {
    if (!statSync(path, {throwIfNoEntry: false})?.isDirectory()) throw error;
  }
}
