import {resolve} from 'node:path';
import {TfjsLoraError} from '../errors.ts';

const FULL = ['ENOSPC', 'EDQUOT'];

/**
 * Runs a write, and throws an error that names the file when its disk is full, which the system's own error does not.
 *
 * @param kept sentence that says what is safe despite the failure, for the message
 * @throws TfjsLoraError `DISK_FULL`; any other error unchanged
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
