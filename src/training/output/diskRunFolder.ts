import {createHash} from 'node:crypto';
import * as fs from 'node:fs';
import {readdir, rename, rm} from 'node:fs/promises';
import {basename, dirname, join, resolve} from 'node:path';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {DiskFolder} from '../../../quant/folders/diskFolder.ts';
import {expandHome} from '../../../quant/folders/expandHome.ts';
import type {RunFolder, StoredFile} from '../../../quant/folders/runFolder.ts';
import {onDisk} from '../../../quant/safetensors/diskErrors.ts';
import {makeFolder} from '../../../quant/safetensors/makeFolder.ts';
import {removeTemporaries, syncFolder} from '../../../quant/safetensors/stagedFile.ts';
import {show} from '../../../quant/show.ts';
import {FolderLock} from './folderLock.ts';

/** A folder on disk that keeps a training run. */
export class DiskRunFolder extends DiskFolder implements RunFolder {
  get name(): string {
    return basename(this.fullPath);
  }

  get fullPath(): string {
    return resolve(this.path);
  }

  get parent(): DiskRunFolder {
    return new DiskRunFolder(dirname(this.path));
  }

  get target(): string {
    return this.path;
  }

  subfolder(name: string): DiskRunFolder {
    return new DiskRunFolder(join(this.path, name));
  }

  async files(): Promise<string[]> {
    return (await readdir(this.path, {recursive: true}))
      .filter((name) => fs.statSync(join(this.path, name)).isFile())
      .map((name) => name.replaceAll('\\', '/'))
      .sort();
  }

  async describe(name: string): Promise<StoredFile | undefined> {
    const path = join(this.path, name);
    if (!fs.statSync(path, {throwIfNoEntry: false})?.isFile()) return undefined;
    const hash = createHash('sha256');
    let bytes = 0;
    for await (const piece of fs.createReadStream(path, {highWaterMark: 1 << 20})) {
      hash.update(piece as Uint8Array);
      bytes += (piece as Uint8Array).length;
    }
    return {bytes, sha256: hash.digest('hex')};
  }

  async append(name: string, contents: string | Uint8Array): Promise<void> {
    const path = join(this.path, name);
    onDisk(path, 'What was written so far is intact.', () => fs.appendFileSync(path, contents));
  }

  async rename(from: string, to: string): Promise<void> {
    await rename(join(this.path, from), join(this.path, to));
    syncFolder(this.path);
  }

  async remove(name: string): Promise<void> {
    await rm(join(this.path, name), {recursive: true, force: true});
  }

  async flush(): Promise<void> {
    for (const name of await this.files()) {
      const path = join(this.path, name);
      const descriptor = fs.openSync(path, 'r+');
      try {
        onDisk(path, '', () => fs.fsyncSync(descriptor));
      } finally {
        fs.closeSync(descriptor);
      }
    }
  }

  async removeTemporaries(): Promise<void> {
    removeTemporaries(this.path);
  }

  async assertUsable(what: string): Promise<void> {
    let existing = this.fullPath;
    while (!fs.existsSync(existing) && dirname(existing) !== existing) existing = dirname(existing);
    if (!fs.statSync(existing).isDirectory()) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `${what} ${this.fullPath}: expected a folder, got a file, ${existing}. Choose another path.`,
      );
    }
    try {
      fs.accessSync(existing, fs.constants.W_OK | fs.constants.X_OK);
    } catch (error) {
      throw this.unwritable(what, error);
    }
    FolderLock.assertFree(this.path, `${what} ${this.fullPath}`);
  }

  async lock(what: string): Promise<FolderLock> {
    try {
      makeFolder(this.path);
      return FolderLock.take(this.path, `${what} ${this.fullPath}`);
    } catch (error) {
      throw error instanceof TfjsLoraError ? error : this.unwritable(what, error);
    }
  }

  private unwritable(what: string, cause: unknown): TfjsLoraError {
    return new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${what} ${this.fullPath}: expected a writable folder, got: ${(cause as Error).message}. ` +
        'Choose another folder, or change its permissions.',
      {cause},
    );
  }
}

/** Opens a run's output folder: a path on disk, or a folder of another kind. */
export function openRunFolder(outputDir: string | RunFolder): RunFolder {
  if (typeof outputDir === 'string') return new DiskRunFolder(expandHome(outputDir));
  if (typeof Object(outputDir).assertUsable === 'function') return outputDir;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `outputDir: expected a path or a folder such as StorageFolder, got ${show(outputDir)}`,
  );
}
