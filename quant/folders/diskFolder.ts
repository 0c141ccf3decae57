import {mkdir, readdir, readFile, realpath, rename, stat, writeFile} from 'node:fs/promises';
import {join, resolve} from 'node:path';
import {TfjsLoraError} from '../errors.ts';
import {SafetensorsFile} from '../safetensors/safetensorsFile.ts';
import {type TensorToWrite, writeSafetensors} from '../safetensors/writeSafetensors.ts';
import {type ShardedWriteOptions, writeShardedSafetensors} from '../safetensors/writeShardedSafetensors.ts';
import type {Folder, WritableFolder} from './folder.ts';

/** A folder on the disk. */
export class DiskFolder implements WritableFolder {
  constructor(readonly path: string) {}

  pathOf(name: string): string {
    return resolve(this.path, name);
  }

  exists(): Promise<boolean> {
    return stat(this.path).then(
      (entry) => entry.isDirectory(),
      () => false,
    );
  }

  has(name: string): Promise<boolean> {
    return stat(join(this.path, name)).then(
      () => true,
      () => false,
    );
  }

  async names(): Promise<string[]> {
    return readdir(this.path).catch(() => []);
  }

  async read(name: string): Promise<Uint8Array | undefined> {
    try {
      return await readFile(join(this.path, name));
    } catch (cause) {
      const {code, message} = cause as NodeJS.ErrnoException;
      if (code === 'ENOENT') return undefined;
      throw new TfjsLoraError(
        'FILE_NOT_FOUND',
        `${this.pathOf(name)}: expected a readable file, got ${message}`,
        {cause},
      );
    }
  }

  async openSafetensors(name: string): Promise<SafetensorsFile> {
    return SafetensorsFile.open(join(this.path, name));
  }

  async create(): Promise<void> {
    try {
      await mkdir(this.path, {recursive: true});
    } catch (cause) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `folder ${resolve(this.path)}: expected a folder to write into, got ${(cause as Error).message}. Choose another.`,
        {cause},
      );
    }
  }

  async write(name: string, contents: string | Uint8Array): Promise<void> {
    const staged = join(this.path, `.${name}.tmp`);
    await writeFile(staged, contents);
    await rename(staged, join(this.path, name));
  }

  async writeSafetensors(name: string, tensors: Iterable<TensorToWrite>): Promise<void> {
    await writeSafetensors(join(this.path, name), tensors);
  }

  async writeShards(tensors: Iterable<TensorToWrite>, options: ShardedWriteOptions): Promise<void> {
    await writeShardedSafetensors(this.path, tensors, options);
  }

  /** Whether another is the same folder of the disk, by whatever path. */
  async isSameAs(other: Folder): Promise<boolean> {
    return other instanceof DiskFolder && (await realpath(this.path)) === (await realpath(other.path));
  }
}
