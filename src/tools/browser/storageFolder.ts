import {counted} from '../../../quant/counted.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {Pieces, WritableFolder} from '../../../quant/folders/folder.ts';
import type {RunFolder, RunLock, StoredFile} from '../../../quant/folders/runFolder.ts';
import {blobBytes} from '../../../quant/safetensors/blobBytes.ts';
import {NoRoomError} from '../../../quant/safetensors/diskErrors.ts';
import type {FileBytes} from '../../../quant/safetensors/fileBytes.ts';
import {byteLengthOf} from '../../../quant/safetensors/safetensorsDtype.ts';
import {SafetensorsFile} from '../../../quant/safetensors/safetensorsFile.ts';
import {isTemporary, temporaryName} from '../../../quant/safetensors/stagedFile.ts';
import {safetensorsPieces, type TensorToWrite} from '../../../quant/safetensors/writeSafetensors.ts';
import {
  earlierSave,
  planShards,
  type ShardedWriteOptions,
} from '../../../quant/safetensors/writeShardedSafetensors.ts';
import {show} from '../../../quant/show.ts';
import {formatBytes} from '../../training/run/formatBytes.ts';

/** Bytes that one write moves at most. */
const SLICE_BYTES = 1 << 28;

/** What a worker writes a file with; TypeScript lists it for workers only. */
interface SyncAccess {
  write(bytes: Uint8Array, options: {at: number}): number;
  getSize(): number;
  flush(): void;
  close(): void;
}

/** A file's handle with what TypeScript does not list for pages. */
interface FileHandle extends FileSystemFileHandle {
  createSyncAccessHandle?(): Promise<SyncAccess>;
  move(folder: FileSystemDirectoryHandle, name: string): Promise<void>;
}

/**
 * A folder in the browser's private file system (OPFS) of the page's origin. It outlasts the tab. Loaders read from it,
 * `saveAdapter` and `save` write into it, and `fitDataset` keeps runs in it (`outputDir`, `resumeFromCheckpoint`).
 *
 * Any thread may read and remove files; only a dedicated worker may write them. A file appears under its name only when
 * complete, so a tab that is killed leaves no partial file. While a run trains in a folder, a Web Lock keeps other tabs
 * from training there.
 *
 * @example
 * ```ts
 * import {Llama} from 'tfjs-lora';
 * import {StorageFolder} from 'tfjs-lora/browser';
 *
 * const model = await Llama.fromPretrained(new StorageFolder('models/llama'));
 * model.applyLoRA({rank: 8});
 * model.compile();
 * const outputDir = new StorageFolder('runs/bills');
 * await model.fitDataset([{text: 'Ada founded Adaville.'}], {outputDir, resumeFromCheckpoint: true});
 * ```
 */
export class StorageFolder implements RunFolder {
  readonly path: string;

  /**
   * @param path names from the storage's root, joined by `/`. Default: the root itself
   * @throws TfjsLoraError `INVALID_ARGUMENT` for an impossible path; `UNSUPPORTED` where there is no such storage: in
   *   Node, in an old browser, or on a page that is not served over https or from localhost
   */
  constructor(path = '') {
    const names = path.split('/').filter(Boolean);
    if (names.some((name) => name === '.' || name === '..')) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `StorageFolder path: expected names joined by /, got ${show(path)}`,
      );
    }
    if (!globalThis.navigator?.storage?.getDirectory) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `StorageFolder ${path}: expected a browser with a private file system, on a page served over https or from ` +
          'localhost, got none.',
      );
    }
    this.path = names.join('/');
  }

  get name(): string {
    return this.path.slice(this.path.lastIndexOf('/') + 1);
  }

  get fullPath(): string {
    return `storage:/${this.path}`;
  }

  get parent(): StorageFolder {
    return new StorageFolder(this.path.slice(0, Math.max(0, this.path.lastIndexOf('/'))));
  }

  get target(): WritableFolder {
    return this;
  }

  subfolder(name: string): StorageFolder {
    return new StorageFolder(`${this.path}/${name}`);
  }

  pathOf(name: string): string {
    return `${this.fullPath}/${name}`;
  }

  async exists(): Promise<boolean> {
    return (await ifFound(this.open())) !== undefined;
  }

  async has(name: string): Promise<boolean> {
    return (await this.fileOf(name)) !== undefined || (await this.subfolder(name).exists());
  }

  async names(): Promise<string[]> {
    const names: string[] = [];
    for await (const name of (await ifFound(this.open()))?.keys() ?? []) names.push(name);
    return names;
  }

  async files(): Promise<string[]> {
    const paths: string[] = [];
    for await (const {kind, name} of (await ifFound(this.open()))?.values() ?? []) {
      if (kind === 'file') paths.push(name);
      else paths.push(...(await this.subfolder(name).files()).map((path) => `${name}/${path}`));
    }
    return paths.sort();
  }

  /** Returns a file, whose bytes the browser reads on demand, or undefined when there is no such file. */
  async fileOf(name: string): Promise<File | undefined> {
    const [folder, last] = this.placeOf(name);
    const directory = await ifFound(folder.open());
    const handle = directory && (await ifFound(directory.getFileHandle(last)));
    return handle && (await ifFound(handle.getFile()));
  }

  async read(name: string): Promise<Uint8Array | undefined> {
    const bytes = await (await this.fileOf(name))?.arrayBuffer();
    return bytes && new Uint8Array(bytes);
  }

  async describe(name: string): Promise<StoredFile | undefined> {
    const bytes = await this.read(name);
    if (!bytes) return undefined;
    const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes as Uint8Array<ArrayBuffer>));
    const sha256 = [...hash].map((byte) => byte.toString(16).padStart(2, '0')).join('');
    return {bytes: bytes.length, sha256};
  }

  async openBytes(name: string): Promise<FileBytes | undefined> {
    const file = await this.fileOf(name);
    return file && blobBytes(file, this.pathOf(name));
  }

  async openSafetensors(name: string): Promise<SafetensorsFile> {
    const file = await this.fileOf(name);
    if (file) return SafetensorsFile.fromBlob(file, this.pathOf(name));
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `safetensors file [${this.pathOf(name)}]: expected a file, got none there. Store it first.`,
    );
  }

  /**
   * @throws TfjsLoraError `INVALID_ARGUMENT` when a file is in the way
   */
  async create(): Promise<void> {
    await this.open({create: true});
  }

  async write(name: string, contents: string | Uint8Array): Promise<void> {
    const bytes = bytesOf(contents);
    await this.writePieces(name, [bytes], bytes.length);
  }

  async writeSafetensors(
    name: string,
    tensors: Iterable<TensorToWrite>,
    metadata?: Readonly<Record<string, string>>,
  ): Promise<void> {
    const all = [...tensors];
    const bytes = all.reduce((sum, {dtype, shape}) => sum + byteLengthOf(dtype, shape), 0);
    await this.writePieces(name, safetensorsPieces(all, metadata, this.pathOf(name)), bytes);
  }

  async writeShards(tensors: Iterable<TensorToWrite>, options: ShardedWriteOptions): Promise<void> {
    const {shards, files, index, baseName} = planShards(this.fullPath, tensors, options);
    const fill = async (draft: WritableFolder) => {
      for (const [i, shard] of shards.entries())
        await (draft as StorageFolder).writeSafetensors(files[i], shard, options.metadata);
      if (index) await draft.write(index.name, index.bytes);
    };
    const isStale = (name: string) => earlierSave([name], baseName, files).length > 0;
    await this.writeTogether(index?.name ?? files[0], fill, isStale);
  }

  async writeTogether(
    entry: string,
    fill: (draft: WritableFolder) => Promise<void>,
    isStale: (name: string) => boolean = () => false,
  ): Promise<void> {
    const draft = this.subfolder(temporaryName('draft'));
    await draft.create();
    try {
      await fill(draft);
      const names = await draft.names();
      const stale = (await this.names()).filter((name) => !names.includes(name) && isStale(name));
      if (names.includes(entry) && names.length + stale.length > 1) await this.remove(entry);
      for (const name of names) if (name !== entry) await draft.moveTo(this, name);
      for (const name of stale) await this.remove(name);
      if (names.includes(entry)) await draft.moveTo(this, entry);
    } finally {
      await this.remove(draft.name);
    }
  }

  /**
   * Writes a file piece by piece. It appears under its name only when complete; an older one stays until then.
   *
   * @param bytes size of the whole file, for the error when there is no room. Default: unknown
   * @throws TfjsLoraError `DISK_FULL`; `UNSUPPORTED` outside a dedicated worker
   */
  async writePieces(name: string, pieces: Pieces, bytes?: number): Promise<void> {
    const [folder, last] = this.placeOf(name);
    const temporary = temporaryName(last);
    try {
      await folder.writeInto(temporary, pieces, bytes, this.pathOf(name));
      // Two moves to one place at the same time fail.
      await navigator.locks.request(`${folder.lockName}/${last} is moved`, () =>
        folder.moveTo(folder, temporary, last),
      );
    } catch (error) {
      await folder.remove(temporary);
      throw error;
    }
  }

  async append(name: string, contents: string | Uint8Array): Promise<void> {
    const [folder, last] = this.placeOf(name);
    const bytes = bytesOf(contents);
    await folder.writeInto(last, [bytes], bytes.length, this.pathOf(name));
  }

  async rename(from: string, to: string): Promise<void> {
    const [[source, name], [target, newName]] = [this.placeOf(from), this.placeOf(to)];
    await source.moveTo(target, name, newName);
  }

  async remove(name: string): Promise<void> {
    const [folder, last] = this.placeOf(name);
    const directory = await ifFound(folder.open());
    if (directory) await ifFound(directory.removeEntry(last, {recursive: true}));
  }

  /** Does nothing: every write is flushed. */
  async flush(): Promise<void> {}

  async removeTemporaries(): Promise<void> {
    for (const name of await this.names()) if (isTemporary(name)) await this.remove(name);
  }

  async assertUsable(what: string): Promise<void> {
    await ifFound(this.open());
    const {held = []} = await navigator.locks.query();
    if (held.some(({name}) => name === this.lockName)) throw this.inUse(what);
  }

  async lock(what: string): Promise<RunLock> {
    await this.create();
    return new Promise((resolve, reject) => {
      const hold = (lock: Lock | null) =>
        lock ? new Promise<void>((release) => resolve({release})) : reject(this.inUse(what));
      navigator.locks.request(this.lockName, {ifAvailable: true}, hold).catch(reject);
    });
  }

  private get lockName(): string {
    return `tfjs-lora ${this.fullPath}`;
  }

  private inUse(what: string): TfjsLoraError {
    return new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${what} ${this.fullPath}: expected a folder that no other run writes to, got one in use, perhaps by another tab. ` +
        'Choose another folder, or close that tab.',
    );
  }

  /** Returns the folder that a path below this one is in, and its last name. */
  private placeOf(path: string): [folder: StorageFolder, name: string] {
    const cut = path.lastIndexOf('/');
    return cut === -1 ? [this, path] : [this.subfolder(path.slice(0, cut)), path.slice(cut + 1)];
  }

  private async open(options?: FileSystemGetDirectoryOptions): Promise<FileSystemDirectoryHandle> {
    let directory = await navigator.storage.getDirectory();
    try {
      for (const name of this.path.split('/').filter(Boolean))
        directory = await directory.getDirectoryHandle(name, options);
    } catch (cause) {
      if ((cause as Error).name !== 'TypeMismatchError') throw cause;
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `folder ${this.fullPath}: expected a folder, got a file of this name. Choose another path.`,
        {cause},
      );
    }
    return directory;
  }

  /** Moves a file, or a folder file by file, to another folder, replacing a file there. */
  private async moveTo(target: StorageFolder, name: string, newName = name): Promise<void> {
    const [from, to] = [await this.open(), await target.open({create: true})];
    const handle = await ifFound(from.getFileHandle(name));
    if (handle) return (handle as FileHandle).move(to, newName);
    const [source, moved] = [this.subfolder(name), target.subfolder(newName)];
    await moved.create();
    for (const each of await source.names()) await source.moveTo(moved, each);
    await this.remove(name);
  }

  /** Writes at the end of a file of this folder, which is made if necessary. */
  private async writeInto(
    name: string,
    pieces: Pieces,
    bytes: number | undefined,
    shownPath: string,
  ): Promise<void> {
    const handle: FileHandle = (await (
      await this.open({create: true})
    ).getFileHandle(name, {
      create: true,
    })) as FileHandle;
    if (!handle.createSyncAccessHandle) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `${shownPath}: expected a dedicated worker to write from, got another thread. Train and save in a worker.`,
      );
    }
    const access = await handle.createSyncAccessHandle();
    let position = access.getSize();
    const begin = position;
    try {
      for await (const piece of pieces) {
        writeAll(access, piece, position);
        position += piece.length;
      }
      access.flush();
    } catch (error) {
      if ((error as Error).name !== 'QuotaExceededError') throw error;
      throw await noRoom(shownPath, Math.max(bytes ?? 0, position - begin), error);
    } finally {
      access.close();
    }
  }
}

const bytesOf = (contents: string | Uint8Array): Uint8Array =>
  typeof contents === 'string' ? new TextEncoder().encode(contents) : contents;

/** Returns the file or folder that is requested from a handle, or undefined if there is none of that name and kind. */
async function ifFound<T>(found: Promise<T>): Promise<T | undefined> {
  try {
    return await found;
  } catch (error) {
    if (['NotFoundError', 'TypeMismatchError'].includes((error as Error).name)) return undefined;
    throw error;
  }
}

/** Writes all bytes. Chromium reports a full storage by an impossible number of bytes instead of an error. */
function writeAll(access: SyncAccess, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length; ) {
    const slice = bytes.subarray(done, done + SLICE_BYTES);
    const written = access.write(slice, {at: position + done});
    if (!(written > 0 && written <= slice.length)) {
      const got = `wrote ${counted(written, 'byte')} of ${slice.length}`;
      throw new DOMException(got, 'QuotaExceededError');
    }
    done += written;
  }
}

/** Makes the error for a full storage, with what is needed and what the browser says is left. */
async function noRoom(path: string, bytes: number, cause: unknown): Promise<NoRoomError> {
  const {usage = 0, quota = 0} = await navigator.storage.estimate();
  const room =
    `for ${formatBytes(bytes)} in the browser's storage, got less: ` +
    `the page uses ${formatBytes(usage)} of at most ${formatBytes(quota)}`;
  return new NoRoomError(path, room, 'What was complete before is unchanged.', cause);
}
