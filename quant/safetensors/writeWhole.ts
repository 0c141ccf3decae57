import {dirname} from 'node:path';
import {StagedFile, syncFolder} from './stagedFile.ts';

/** Writes a file atomically: it appears complete or not at all. */
export function writeWhole(path: string, contents: string | Uint8Array): void {
  const file = new StagedFile(path);
  try {
    file.write(typeof contents === 'string' ? new TextEncoder().encode(contents) : contents);
    file.seal();
    file.publish();
  } catch (error) {
    file.discard();
    throw error;
  }
  syncFolder(dirname(path));
}
