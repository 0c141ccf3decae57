import {resolve} from 'node:path';
import {TfjsLoraError} from '../errors.ts';

const FULL = ['ENOSPC', 'EDQUOT'];

/** The error for a file that finds no room: `DISK_FULL`. */
export class NoRoomError extends TfjsLoraError {
  /**
   * @param file the file's whole path
   * @param room the room that was expected and what there was, after "expected room"
   * @param kept sentence that says what is safe despite the failure
   */
  constructor(
    readonly file: string,
    readonly room: string,
    kept: string,
    cause?: unknown,
  ) {
    super('DISK_FULL', `${file}: expected room ${room}. ${kept} Free some space and try again.`, {cause});
  }
}

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
    throw new NoRoomError(resolve(path), `on its disk, got none (${code})`, kept, cause);
  }
}
