import type {TensorInfo} from '../safetensors/safetensorsHeader.ts';

/** The tensors of a model's files, regardless of their format. `SafetensorsFolder` has this interface. */
export interface TensorFiles {
  /** The folder, for messages. */
  readonly folder: string;
  /** Returns the names of all tensors, in the order of the files' bytes. */
  names(): string[];
  has(name: string): boolean;
  /** @throws TfjsLoraError `MISSING_TENSOR` */
  info(name: string): TensorInfo;
  /** Returns the file that a tensor is read from, for messages. */
  fileOf(name: string): {readonly path: string};
  /** Reads a tensor's bytes, of the dtype that {@link info} has. */
  load(name: string): Promise<Uint8Array>;
  /** Does what {@link load} does, synchronously. */
  read(name: string): Uint8Array;
  close(): void;
}
