import {randomUUID} from 'node:crypto';
import * as fs from 'node:fs';
import {basename, dirname, join, resolve} from 'node:path';
import {onDisk} from './diskErrors.ts';

/** One `write` call moves at most this much: the system refuses 2 GiB and more at once. */
const WRITE_SLICE_BYTES = 1 << 30;

const TEMPORARY = /^\.(?!checkpoint-).+\.[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}\.tmp$/;

/** Temporary files and folders that this process is filling. */
const live = new Set<string>();

/** A path for a file or folder that is to get its own name later; it is this process's until {@link endTemporary}. */
export function beginTemporary(path: string): string {
  const temporary = join(dirname(path), `.${basename(path)}.${randomUUID()}.tmp`);
  live.add(resolve(temporary));
  return temporary;
}

export function endTemporary(temporary: string): void {
  live.delete(resolve(temporary));
}

/** Removes temporary files and folders that a process left in a folder when it died. */
export function removeTemporaries(folder: string): void {
  if (!fs.existsSync(folder)) return;
  for (const name of fs.readdirSync(folder)) {
    const path = join(folder, name);
    if (TEMPORARY.test(name) && !live.has(resolve(path))) fs.rmSync(path, {recursive: true, force: true});
  }
}

const KEPT = 'What was there under this name is unchanged.';

/**
 * A file written under a temporary name beside its own and put in place only when complete, so that readers see the
 * old file or the new one and a crash leaves no torn file: `write`…, {@link seal}, {@link publish}.
 */
export class StagedFile {
  private readonly temporaryPath: string;
  private descriptor: number | undefined;

  /** Creates the folder when it does not exist. */
  constructor(readonly path: string) {
    this.temporaryPath = beginTemporary(path);
    this.descriptor = onDisk(path, KEPT, () => {
      fs.mkdirSync(dirname(path), {recursive: true});
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

  /** Ends the writing: the contents are on the disk, still under the temporary name. */
  seal(): void {
    onDisk(this.path, KEPT, () => fs.fsyncSync(this.descriptor!));
    this.closeDescriptor();
  }

  /** Moves the sealed file to its place, over an older one of the same name. */
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

/** Makes renames and removals in a folder survive a power cut, where the system lets one sync a folder. */
export function syncFolder(folder: string): void {
  let descriptor: number | undefined;
  try {
    descriptor = fs.openSync(folder, 'r');
    fs.fsyncSync(descriptor);
  } catch {
    // Windows and some network file systems cannot; the files themselves are complete all the same.
  } finally {
    if (descriptor !== undefined) fs.closeSync(descriptor);
  }
}
