import type {TensorToWrite} from '../safetensors/writeSafetensors.ts';
import type {WritableFolder} from './folder.ts';

/** Size and checksum of a file. */
export interface StoredFile {
  bytes: number;
  /** SHA-256 of the contents, in hexadecimal digits. */
  sha256: string;
}

/**
 * A lock on a folder, which no other run may write to meanwhile. It is also released when its process, tab or worker
 * ends.
 */
export interface RunLock {
  release(): void;
}

/**
 * A {@link WritableFolder} that can keep a training run: its checkpoints, logs, results and weights. Names of files may
 * be paths below the folder, `checkpoint-5/optimizer.safetensors`.
 */
export interface RunFolder extends WritableFolder {
  /** The folder's name in its parent. */
  readonly name: string;
  /** The whole path, for messages and comparisons. */
  readonly fullPath: string;
  readonly parent: RunFolder;
  /** The folder as a model's methods take it to save to: a path if there is one, otherwise the folder itself. */
  readonly target: string | WritableFolder;
  /** Returns a folder in this one, which need not exist. */
  subfolder(name: string): RunFolder;
  /** Returns the names of its files and folders; none when it does not exist. */
  names(): Promise<string[]>;
  /** Returns the paths of all files in it and in its folders, relative to it and sorted. */
  files(): Promise<string[]>;
  /** Returns a file's size and checksum, or undefined when there is no such file. */
  describe(name: string): Promise<StoredFile | undefined>;
  writeSafetensors(
    name: string,
    tensors: Iterable<TensorToWrite>,
    metadata?: Readonly<Record<string, string>>,
  ): Promise<void>;
  /** Adds to the end of a file, which is created if necessary. */
  append(name: string, contents: string | Uint8Array): Promise<void>;
  /** Renames a file or folder of this folder. */
  rename(from: string, to: string): Promise<void>;
  /** Removes a file or folder, if there is one. */
  remove(name: string): Promise<void>;
  /** Ensures that all files outlast a crash of the system. */
  flush(): Promise<void>;
  /** Removes the temporary files and folders that ended processes left in it. */
  removeTemporaries(): Promise<void>;
  /**
   * Checks that the folder can be written, or made, and that no other run holds it, and changes nothing.
   *
   * @param what the setting that names the folder, for the error
   * @throws TfjsLoraError `INVALID_ARGUMENT`
   */
  assertUsable(what: string): Promise<void>;
  /**
   * Creates the folder, and locks it until the lock is released.
   *
   * @param what the setting that names the folder, for the error
   * @throws TfjsLoraError `INVALID_ARGUMENT` when it cannot be made or another run holds it
   */
  lock(what: string): Promise<RunLock>;
}
