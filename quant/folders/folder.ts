import {decodeUtf8} from '../decodeUtf8.ts';
import type {SafetensorsFile} from '../safetensors/safetensorsFile.ts';
import type {TensorToWrite} from '../safetensors/writeSafetensors.ts';
import type {ShardedWriteOptions} from '../safetensors/writeShardedSafetensors.ts';

/** A folder of files, wherever it lies: on the disk, in memory, behind a URL. */
export interface Folder {
  /** Where it lies, as it was given; empty for files in memory. */
  readonly path: string;
  /** Where a file of it lies, for messages. */
  pathOf(name: string): string;
  /** Whether it is there to be read. */
  exists(): Promise<boolean>;
  has(name: string): Promise<boolean>;
  /** Names of its files; undefined where they cannot be listed. */
  names(): Promise<string[] | undefined>;
  /**
   * A file's bytes, or undefined when there is no such file.
   *
   * @throws TfjsLoraError `FILE_NOT_FOUND` when it is there but cannot be read
   */
  read(name: string): Promise<Uint8Array | undefined>;
  /** @throws TfjsLoraError `FILE_NOT_FOUND`, `CORRUPT_FILE` */
  openSafetensors(name: string): Promise<SafetensorsFile>;
}

/** A {@link Folder} that takes files too. A file appears under its name only when complete. */
export interface WritableFolder extends Folder {
  /** Makes it when it is not there. @throws TfjsLoraError `INVALID_ARGUMENT` when it cannot be made */
  create(): Promise<void>;
  write(name: string, contents: string | Uint8Array): Promise<void>;
  /** One file of tensors; see `writeSafetensors`. */
  writeSafetensors(name: string, tensors: Iterable<TensorToWrite>): Promise<void>;
  /** Tensors in as many files as they need; see `writeShardedSafetensors`. */
  writeShards(tensors: Iterable<TensorToWrite>, options: ShardedWriteOptions): Promise<void>;
  /**
   * Writes files that belong together: `fill` writes them into a draft, and they appear here once all are there, `entry`
   * last. A process that dies before that leaves the folder as it was; one that dies while they appear leaves it without
   * `entry`, so that nothing loads a mixture. What such a process left behind goes with the next call.
   *
   * @param entry the file that readers begin with, such as `config.json`
   * @param isStale whether a file of an earlier save goes where this one does not write it. Default none does
   */
  writeTogether(
    entry: string,
    fill: (draft: WritableFolder) => Promise<void>,
    isStale?: (name: string) => boolean,
  ): Promise<void>;
}

/**
 * A file's text, or undefined when there is no such file.
 *
 * @throws TfjsLoraError `CORRUPT_FILE` naming the first byte that is not UTF-8
 */
export async function readText(folder: Folder, name: string): Promise<string | undefined> {
  const bytes = await folder.read(name);
  return bytes && decodeUtf8(bytes, folder.pathOf(name));
}
