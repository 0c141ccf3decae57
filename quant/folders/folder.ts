import {decodeUtf8} from '../decodeUtf8.ts';
import type {FileBytes} from '../safetensors/fileBytes.ts';
import type {SafetensorsFile} from '../safetensors/safetensorsFile.ts';
import type {TensorToWrite} from '../safetensors/writeSafetensors.ts';
import type {ShardedWriteOptions} from '../safetensors/writeShardedSafetensors.ts';

/** A folder of files on disk, in memory or behind a URL. */
export interface Folder {
  /** The path or URL as the caller gave it; empty for files in memory. */
  readonly path: string;
  /** Returns the place of one of its files, for messages. */
  pathOf(name: string): string;
  /** Whether it exists and can be read. */
  exists(): Promise<boolean>;
  has(name: string): Promise<boolean>;
  /** Returns the names of its files, or undefined where they cannot be listed. */
  names(): Promise<string[] | undefined>;
  /**
   * Reads a file's bytes; undefined when there is no such file.
   *
   * @throws TfjsLoraError `FILE_NOT_FOUND` when it exists but cannot be read
   */
  read(name: string): Promise<Uint8Array | undefined>;
  /**
   * Opens a file for reading parts of it; undefined when there is no such file. Without this method, GGUF files are
   * read whole.
   */
  openBytes?(name: string): Promise<FileBytes | undefined>;
  /** @throws TfjsLoraError `FILE_NOT_FOUND`, `CORRUPT_FILE` */
  openSafetensors(name: string): Promise<SafetensorsFile>;
}

/** The bytes of a file in order, in pieces of any size. Each is done with before the next is requested. */
export type Pieces = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** A {@link Folder} that can also be written. A file appears under its name only when complete. */
export interface WritableFolder extends Folder {
  /** Creates the folder if it does not exist. @throws TfjsLoraError `INVALID_ARGUMENT` when it cannot be created */
  create(): Promise<void>;
  write(name: string, contents: string | Uint8Array): Promise<void>;
  /**
   * Writes a file piece by piece.
   *
   * @param bytes size of the whole file, for the error when there is no room. Default: unknown
   */
  writePieces(name: string, pieces: Pieces, bytes?: number): Promise<void>;
  /** Writes one file of tensors; see `writeSafetensors`. */
  writeSafetensors(name: string, tensors: Iterable<TensorToWrite>): Promise<void>;
  /** Writes tensors into as many files as they need; see `writeShardedSafetensors`. */
  writeShards(tensors: Iterable<TensorToWrite>, options: ShardedWriteOptions): Promise<void>;
  /**
   * Writes files that belong together: `fill` writes them into a draft, and they appear here once all are complete,
   * `entry` last. A process that dies before that leaves the folder unchanged; one that dies while they appear leaves
   * it without `entry`, so that nothing loads a mixture. The next call removes what such a process left behind.
   *
   * @param entry the file that readers open first, such as `config.json`
   * @param isStale whether to remove a file of an earlier save that this save does not write. Default: none is removed
   */
  writeTogether(
    entry: string,
    fill: (draft: WritableFolder) => Promise<void>,
    isStale?: (name: string) => boolean,
  ): Promise<void>;
}

/**
 * Reads a file's text; undefined when there is no such file.
 *
 * @throws TfjsLoraError `CORRUPT_FILE` naming the first byte that is not UTF-8
 */
export async function readText(folder: Folder, name: string): Promise<string | undefined> {
  const bytes = await folder.read(name);
  return bytes && decodeUtf8(bytes, folder.pathOf(name));
}
