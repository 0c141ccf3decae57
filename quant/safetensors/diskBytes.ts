import {constants} from 'node:buffer';
import * as fs from 'node:fs';
import {TfjsLoraError} from '../errors.ts';
import type {FileBytes} from './fileBytes.ts';

/** Bytes that one `read` call moves at most, because the system refuses 2 GiB and more in one call. */
const READ_SLICE_BYTES = 1 << 30;

/** The largest number of bytes that one array can hold in this process: 4 GiB on Node 20. */
export const MAX_ARRAY_BYTES = constants.MAX_LENGTH;

/**
 * Opens a file on disk, which stays open until it is closed.
 *
 * @param what what it is, for messages
 * @throws TfjsLoraError `FILE_NOT_FOUND` when there is no such readable file
 */
export function diskBytes(path: string, what = 'safetensors file'): FileBytes {
  const descriptor = openForReading(path, what);
  const readNow = (target: Uint8Array, position: number) => {
    let done = 0;
    while (done < target.length) {
      const length = Math.min(target.length - done, READ_SLICE_BYTES);
      const count = fs.readSync(descriptor, target, done, length, position + done);
      if (count === 0) break;
      done += count;
    }
    return done;
  };
  return {
    size: fs.fstatSync(descriptor).size,
    readNow,
    read: async (target, position) => readNow(target, position),
    close: () => fs.closeSync(descriptor),
  };
}

function openForReading(path: string, what: string): number {
  let descriptor: number;
  try {
    descriptor = fs.openSync(path, 'r');
  } catch (cause) {
    throw notReadable(what, path, (cause as Error).message, {cause});
  }
  if (!fs.fstatSync(descriptor).isFile()) {
    fs.closeSync(descriptor);
    throw notReadable(what, path, 'a folder or device');
  }
  return descriptor;
}

function notReadable(what: string, path: string, got: string, options?: ErrorOptions): TfjsLoraError {
  const message = `${what} [${path}]: expected a readable file, got ${got}. Check the path.`;
  return new TfjsLoraError('FILE_NOT_FOUND', message, options);
}
