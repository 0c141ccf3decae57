import {TfjsLoraError} from '../errors.ts';
import type {FileBytes} from './fileBytes.ts';

/**
 * The bytes of a `Blob` or `File`, read slice by slice: a browser may keep the whole of it out of memory.
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

/** A chosen file that was moved or changed since. */
function gone(name: string, cause: Error): TfjsLoraError {
  return new TfjsLoraError(
    'FILE_NOT_FOUND',
    `file ${name}: expected a readable file, got ${cause.message} Choose it again.`,
    {cause},
  );
}
