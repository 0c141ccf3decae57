import {TfjsLoraError} from '../errors.ts';
import type {FileBytes} from './fileBytes.ts';

/**
 * Opens a `Blob` or `File`, which is read slice by slice, because a browser may keep most of it out of memory.
 *
 * @param name the file's name, for messages
 */
export function blobBytes(blob: Blob, name: string): FileBytes {
  return {
    size: blob.size,
    async read(target, position) {
      const slice = blob.slice(position, position + target.length);
      const bytes = new Uint8Array(
        await slice.arrayBuffer().catch((cause: Error): never => {
          throw gone(name, cause);
        }),
      );
      target.set(bytes);
      return bytes.length;
    },
    close() {},
  };
}

/** Makes the error for a file that was moved or changed after it was chosen. */
function gone(name: string, cause: Error): TfjsLoraError {
  return new TfjsLoraError(
    'FILE_NOT_FOUND',
    `file ${name}: expected a readable file, got ${cause.message} Choose it again.`,
    {cause},
  );
}
