import {resolve} from 'node:path';
import {TfjsLoraError} from '../errors.ts';

const FULL = ['ENOSPC', 'EDQUOT'];

/**
 * Runs what writes to a file, and names the file where its disk is full: the system's own error does not.
 *
 * @param kept what is safe all the same, for the message
 * @throws TfjsLoraError `DISK_FULL`; any other error as it is
 */
export function onDisk<T>(path: string, kept: string, write: () => T): T {
  try {
    return write();
  } catch (cause) {
    const {code = ''} = cause as NodeJS.ErrnoException;
    if (!FULL.includes(code)) throw cause;
    throw new TfjsLoraError(
      'DISK_FULL',
      `${resolve(path)}: expected room on its disk, got none (${code}). ${kept} Free some space and try again.`,
      {cause},
    );
  }
}
