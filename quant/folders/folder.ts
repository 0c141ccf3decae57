import {TfjsLoraError} from '../errors.ts';
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
}

/** Far above the largest tokenizer, and half of what one string of Node may hold. */
const MAX_TEXT_BYTES = 2 ** 28;

/**
 * A file's text, or undefined when there is no such file.
 *
 * @throws TfjsLoraError `CORRUPT_FILE` when it is no UTF-8 or larger than 256 MiB; `FILE_NOT_FOUND` as {@link Folder.read}
 */
export async function readText(folder: Folder, name: string): Promise<string | undefined> {
  const bytes = await folder.read(name);
  return bytes && decodeText(bytes, folder.pathOf(name));
}

/** As {@link readText}, for the bytes of the file at `path`. */
export function decodeText(bytes: Uint8Array, path: string): string {
  const corrupt = (got: string, cause?: unknown) =>
    new TfjsLoraError('CORRUPT_FILE', `${path}: expected UTF-8 text, got ${got}`, {cause});
  if (bytes.length > MAX_TEXT_BYTES) throw corrupt(`${bytes.length} bytes, more than ${MAX_TEXT_BYTES}`);
  try {
    return new TextDecoder('utf-8', {fatal: true}).decode(bytes);
  } catch (cause) {
    throw corrupt('other bytes', cause);
  }
}
