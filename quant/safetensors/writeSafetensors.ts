import {dirname} from 'node:path';
import {TfjsLoraError} from '../errors.ts';
import {show} from '../show.ts';
import {byteLengthOf} from './safetensorsDtype.ts';
import {buildHeader, type TensorSpec} from './safetensorsHeader.ts';
import {type StagedFile, stagePieces, syncFolder} from './stagedFile.ts';

/** A tensor to write. Its bytes, little-endian and row-major, are any typed array, or a function that makes one. */
export interface TensorToWrite extends TensorSpec {
  /** A function is called once, in its turn, and its result is dropped before the next function is called. */
  readonly data: ArrayBufferView | (() => ArrayBufferView | Promise<ArrayBufferView>);
}

/** The metadata that transformers and PEFT write, and expect when they read. */
export const DEFAULT_METADATA: Readonly<Record<string, string>> = {format: 'pt'};

/**
 * Writes one safetensors file, byte for byte as Python's safetensors writes the same tensors. Tensors are ordered by
 * dtype, the widest first, then by name, and their data is requested in that order, one at a time. The file appears
 * under its name only when complete; an older one stays until then. Creates the folder if needed.
 *
 * @param metadata the file's `__metadata__`, default `{format: 'pt'}`; none when empty
 * @throws TfjsLoraError `INVALID_ARGUMENT` when a name, dtype, shape or metadata entry cannot be written, before
 *   anything is; `SHAPE_MISMATCH` when a tensor's data does not have the bytes of its dtype and shape
 * @example
 * ```ts
 * import {writeSafetensors} from 'tfjs-lora/quant';
 *
 * await writeSafetensors('norm.safetensors', [
 *   {name: 'norm.weight', dtype: 'F32', shape: [4], data: new Float32Array([1, 1, 1, 1])},
 * ]);
 * ```
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorToWrite>,
  metadata: Readonly<Record<string, string>> = DEFAULT_METADATA,
): Promise<void> {
  const file = await stageSafetensors(path, tensors, metadata);
  file.publish();
  syncFolder(dirname(path));
}

/** Does what {@link writeSafetensors} does, except the last step that gives the complete file its name. */
export async function stageSafetensors(
  path: string,
  tensors: Iterable<TensorToWrite>,
  metadata: Readonly<Record<string, string>>,
): Promise<StagedFile> {
  return stagePieces(path, safetensorsPieces(tensors, metadata, path));
}

/**
 * Yields the bytes of a safetensors file as {@link writeSafetensors} writes them: the header, then each tensor.
 *
 * @param path path of the file, for messages
 */
export async function* safetensorsPieces(
  tensors: Iterable<TensorToWrite>,
  metadata: Readonly<Record<string, string>> = DEFAULT_METADATA,
  path: string,
): AsyncGenerator<Uint8Array, void, undefined> {
  const {bytes: header, ordered} = buildHeader(tensors, metadata, path);
  yield header;
  for (const tensor of ordered) yield await bytesOf(tensor, path);
}

async function bytesOf({name, dtype, shape, data}: TensorToWrite, path: string): Promise<Uint8Array> {
  const view = typeof data === 'function' ? await data() : data;
  const expected = byteLengthOf(dtype, shape);
  if (view.byteLength !== expected) {
    throw new TfjsLoraError(
      'SHAPE_MISMATCH',
      `Cannot write tensor ${show(name)} [${path}]: expected ${expected} bytes for ${dtype} [${shape}], ` +
        `got ${view.byteLength}.`,
    );
  }
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}
