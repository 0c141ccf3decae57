import * as fs from 'node:fs';
import {readdir, readFile, realpath, stat} from 'node:fs/promises';
import {dirname, join, resolve} from 'node:path';
import {TfjsLoraError} from '../errors.ts';
import {diskBytes} from '../safetensors/diskBytes.ts';
import {NoRoomError} from '../safetensors/diskErrors.ts';
import type {FileBytes} from '../safetensors/fileBytes.ts';
import {makeFolder} from '../safetensors/makeFolder.ts';
import {SafetensorsFile} from '../safetensors/safetensorsFile.ts';
import {
  beginTemporary,
  endTemporary,
  removeTemporaries,
  stagePieces,
  syncFolder,
} from '../safetensors/stagedFile.ts';
import {type TensorToWrite, writeSafetensors} from '../safetensors/writeSafetensors.ts';
import {type ShardedWriteOptions, writeShardedSafetensors} from '../safetensors/writeShardedSafetensors.ts';
import {writeWhole} from '../safetensors/writeWhole.ts';
import type {Folder, Pieces, WritableFolder} from './folder.ts';

/** A folder on disk. */
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
      if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
      throw new TfjsLoraError(
        'FILE_NOT_FOUND',
        `${this.pathOf(name)}: expected a readable file, got ${message}`,
        {cause},
      );
    }
  }

  async openBytes(name: string): Promise<FileBytes | undefined> {
    return (await this.has(name)) ? diskBytes(join(this.path, name), 'file') : undefined;
  }

  async openSafetensors(name: string): Promise<SafetensorsFile> {
    return SafetensorsFile.open(join(this.path, name));
  }

  async create(): Promise<void> {
    try {
      makeFolder(this.path);
    } catch (cause) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `folder ${resolve(this.path)}: expected a folder to write into, got ${(cause as Error).message}. ` +
          'Choose another.',
        {cause},
      );
    }
  }

  async write(name: string, contents: string | Uint8Array): Promise<void> {
    writeWhole(join(this.path, name), contents);
  }

  async writePieces(name: string, pieces: Pieces): Promise<void> {
    const file = await stagePieces(join(this.path, name), pieces);
    file.publish();
    syncFolder(dirname(file.path));
  }

  async writeSafetensors(
    name: string,
    tensors: Iterable<TensorToWrite>,
    metadata?: Readonly<Record<string, string>>,
  ): Promise<void> {
    await writeSafetensors(join(this.path, name), tensors, metadata);
  }

  async writeShards(tensors: Iterable<TensorToWrite>, options: ShardedWriteOptions): Promise<void> {
    await writeShardedSafetensors(this.path, tensors, options);
  }

  async writeTogether(
    entry: string,
    fill: (draft: WritableFolder) => Promise<void>,
    isStale: (name: string) => boolean = () => false,
  ): Promise<void> {
    removeTemporaries(this.path);
    const draft = beginTemporary(join(this.path, 'draft'));
    try {
      makeFolder(draft);
      await fill(new DiskFolder(draft));
      publish(draft, this.path, entry, isStale);
    } catch (error) {
      throw namingFinalPath(error, draft, this.path);
    } finally {
      endTemporary(draft);
      fs.rmSync(draft, {recursive: true, force: true});
    }
  }

  /** Whether another folder is the same on disk, regardless of its path. */
  async isSameAs(other: Folder): Promise<boolean> {
    return other instanceof DiskFolder && (await realpath(this.path)) === (await realpath(other.path));
  }
}

/** Moves a draft's files to their places. A single file replaces another atomically; of several, `entry` comes last. */
function publish(draft: string, folder: string, entry: string, isStale: (name: string) => boolean): void {
  const names = fs.readdirSync(draft);
  const present = fs.readdirSync(folder, {withFileTypes: true}).filter((file) => !file.isDirectory());
  const stale = present.map(({name}) => name).filter((name) => !names.includes(name) && isStale(name));
  const changed = names.filter((name) => !isSameFile(join(draft, name), join(folder, name)));
  if (names.includes(entry) && changed.length + stale.length > 1) {
    fs.rmSync(join(folder, entry), {force: true});
    syncFolder(folder);
  }
  const move = (name: string) => fs.renameSync(join(draft, name), join(folder, name));
  for (const name of changed) if (name !== entry) move(name);
  for (const name of stale) fs.rmSync(join(folder, name), {force: true});
  if (names.includes(entry)) move(entry);
  syncFolder(folder);
}

/** Whether two files have the same contents. Large files count as different. */
function isSameFile(a: string, b: string): boolean {
  const [size, other] = [a, b].map((path) => fs.statSync(path, {throwIfNoEntry: false})?.size);
  return size === other && size! < 1 << 20 && fs.readFileSync(a).equals(fs.readFileSync(b));
}

/** Names files in an error by their final path instead of their path in the draft. */
function namingFinalPath(error: unknown, draft: string, folder: string): unknown {
  if (!(error instanceof TfjsLoraError) || !error.message.includes(draft)) return error;
  const renamed = (text: string) =>
    text.replaceAll(resolve(draft), resolve(folder)).replaceAll(draft, folder);
  const file = error instanceof NoRoomError && {file: renamed(error.file)};
  return Object.assign(error, {message: renamed(error.message), ...file});
}
