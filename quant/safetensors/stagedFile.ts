import * as fs from 'node:fs';
import {basename, dirname, join, resolve} from 'node:path';
import {onDisk} from './diskErrors.ts';
import {makeFolder} from './makeFolder.ts';

/** Bytes that one `write` call moves at most, because the system refuses 2 GiB and more in one call. */
const WRITE_SLICE_BYTES = 1 << 30;

const TEMPORARY = /^\.(?!checkpoint-).+\.[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}\.tmp$/;

/** Returns a temporary name for a file or folder, beside its final one. */
export const temporaryName = (name: string): string => `.${name}.${crypto.randomUUID()}.tmp`;

/** Whether {@link temporaryName} made a name; checkpoints' are not meant. */
export const isTemporary = (name: string): boolean => TEMPORARY.test(name);

/** Temporary files and folders that this process is filling. */
const live = new Set<string>();

/** Returns a temporary path for a file or folder to be renamed later, which {@link endTemporary} releases. */
export function beginTemporary(path: string): string {
  const temporary = join(dirname(path), temporaryName(basename(path)));
  live.add(resolve(temporary));
  return temporary;
}

export function endTemporary(temporary: string): void {
  live.delete(resolve(temporary));
}

/** Removes the temporary files and folders that dead processes left in a folder. */
export function removeTemporaries(folder: string): void {
  if (!fs.existsSync(folder)) return;
  for (const name of fs.readdirSync(folder)) {
    const path = join(folder, name);
    if (isTemporary(name) && !live.has(resolve(path))) fs.rmSync(path, {recursive: true, force: true});
  }
}

const KEPT = 'An older file of this name is unchanged.';

/**
 * A file that is written under a temporary name and renamed only when complete, so that readers see the old file or
 * the new one, and a crash leaves no partial file: `write`…, {@link seal}, {@link publish}.
 */
export class StagedFile {
  private readonly temporaryPath: string;
  private descriptor: number | undefined;

  /** Creates the folder when it does not exist. */
  constructor(readonly path: string) {
    this.temporaryPath = beginTemporary(path);
    this.descriptor = onDisk(path, KEPT, () => {
      makeFolder(dirname(path));
      return fs.openSync(this.temporaryPath, 'wx');
    });
  }

  /** Appends all of `bytes`. */
  write(bytes: Uint8Array): void {
    let done = 0;
    while (done < bytes.length) {
      const length = Math.min(bytes.length - done, WRITE_SLICE_BYTES);
      done += onDisk(this.path, KEPT, () => fs.writeSync(this.descriptor!, bytes, done, length));
    }
  }

  /** Finishes writing. The contents are then on disk, still under the temporary name. */
  seal(): void {
    onDisk(this.path, KEPT, () => fs.fsyncSync(this.descriptor!));
    this.closeDescriptor();
  }

  /** Gives the sealed file its name, replacing an older file. */
  publish(): void {
    fs.renameSync(this.temporaryPath, this.path);
    endTemporary(this.temporaryPath);
  }

  /** Removes what was written; does nothing after {@link publish}. */
  discard(): void {
    this.closeDescriptor();
    endTemporary(this.temporaryPath);
    fs.rmSync(this.temporaryPath, {force: true});
  }

  private closeDescriptor(): void {
    if (this.descriptor === undefined) return;
    fs.closeSync(this.descriptor);
    this.descriptor = undefined;
  }
}

/** Writes a file's pieces, the first of which is requested before a file is created. The caller publishes the file. */
export async function stagePieces(
  path: string,
  pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<StagedFile> {
  let file: StagedFile | undefined;
  try {
    for await (const piece of pieces) {
      file ??= new StagedFile(path);
      file.write(piece);
    }
    file ??= new StagedFile(path);
    file.seal();
    return file;
  } catch (error) {
    file?.discard();
    throw error;
  }
}

/** Makes renames and removals in a folder survive a power cut, where the system can sync folders. */
export function syncFolder(folder: string): void {
  let descriptor: number | undefined;
  try {
    descriptor = fs.openSync(folder, 'r');
    fs.fsyncSync(descriptor);
  } catch {
    // Windows and some network file systems cannot sync folders; the files themselves are complete anyway.
  } finally {
    if (descriptor !== undefined) fs.closeSync(descriptor);
  }
}
