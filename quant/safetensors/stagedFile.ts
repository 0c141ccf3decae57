import {randomUUID} from 'node:crypto';
import * as fs from 'node:fs';
import {basename, dirname, join} from 'node:path';

/** One `write` call moves at most this much: the system refuses 2 GiB and more at once. */
const WRITE_SLICE_BYTES = 1 << 30;

/**
 * A file written under a temporary name beside its own and put in place only when complete, so that readers see the
 * old file or the new one and a crash leaves no torn file: `write`…, {@link seal}, {@link publish}.
 */
export class StagedFile {
  private readonly temporaryPath: string;
  private descriptor: number | undefined;

  /** Creates the folder when it does not exist. */
  constructor(readonly path: string) {
    const folder = dirname(path);
    fs.mkdirSync(folder, {recursive: true});
    this.temporaryPath = join(folder, `.${basename(path)}.${randomUUID()}.tmp`);
    this.descriptor = fs.openSync(this.temporaryPath, 'wx');
  }

  /** Appends all of `bytes`. */
  write(bytes: Uint8Array): void {
    let done = 0;
    while (done < bytes.length) {
      const length = Math.min(bytes.length - done, WRITE_SLICE_BYTES);
      done += fs.writeSync(this.descriptor!, bytes, done, length);
    }
  }

  /** Ends the writing: the contents are on the disk, still under the temporary name. */
  seal(): void {
    fs.fsyncSync(this.descriptor!);
    this.closeDescriptor();
  }

  /** Moves the sealed file to its place, over an older one of the same name. */
  publish(): void {
    fs.renameSync(this.temporaryPath, this.path);
  }

  /** Removes what was written; does nothing after {@link publish}. */
  discard(): void {
    this.closeDescriptor();
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
