import {TfjsLoraError} from '../errors.ts';
import {blobBytes} from '../safetensors/blobBytes.ts';
import type {FileBytes} from '../safetensors/fileBytes.ts';
import {SafetensorsFile} from '../safetensors/safetensorsFile.ts';
import {safetensorsPieces, type TensorToWrite} from '../safetensors/writeSafetensors.ts';
import {earlierSave, planShards, type ShardedWriteOptions} from '../safetensors/writeShardedSafetensors.ts';
import type {Pieces, WritableFolder} from './folder.ts';

/** A folder of files in memory, which a browser's user chose or a save made. */
export class MemoryFolder implements WritableFolder {
  readonly path = '';

  constructor(private readonly files: Map<string, Blob>) {}

  pathOf(name: string): string {
    return name;
  }

  async exists(): Promise<boolean> {
    return this.files.size > 0;
  }

  async has(name: string): Promise<boolean> {
    return this.files.has(name);
  }

  async names(): Promise<string[]> {
    return [...this.files.keys()];
  }

  async read(name: string): Promise<Uint8Array | undefined> {
    const bytes = await this.files.get(name)?.arrayBuffer();
    return bytes && new Uint8Array(bytes);
  }

  async openBytes(name: string): Promise<FileBytes | undefined> {
    const file = this.files.get(name);
    return file && blobBytes(file, name);
  }

  async openSafetensors(name: string): Promise<SafetensorsFile> {
    const file = this.files.get(name);
    if (file) return SafetensorsFile.fromBlob(file, name);
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `file ${name}: expected it among the files, got ${[...this.files.keys()].join(', ') || 'none'}.`,
    );
  }

  async create(): Promise<void> {}

  async write(name: string, contents: string | Uint8Array): Promise<void> {
    this.files.set(name, new Blob([contents as Uint8Array<ArrayBuffer>]));
  }

  async writePieces(name: string, pieces: Pieces): Promise<void> {
    this.files.set(name, await blobOf(pieces));
  }

  async writeSafetensors(name: string, tensors: Iterable<TensorToWrite>): Promise<void> {
    await this.writePieces(name, safetensorsPieces(tensors, undefined, name));
  }

  async writeShards(tensors: Iterable<TensorToWrite>, options: ShardedWriteOptions): Promise<void> {
    const {shards, files, index, baseName} = planShards('files', tensors, options);
    const written = new Map<string, Blob>();
    for (const [i, shard] of shards.entries()) {
      written.set(files[i], await blobOf(safetensorsPieces(shard, options.metadata, files[i])));
    }
    if (index) written.set(index.name, new Blob([index.bytes as Uint8Array<ArrayBuffer>]));
    for (const name of earlierSave([...this.files.keys()], baseName, files)) this.files.delete(name);
    for (const [name, blob] of written) this.files.set(name, blob);
  }

  async writeTogether(
    _entry: string,
    fill: (draft: WritableFolder) => Promise<void>,
    isStale: (name: string) => boolean = () => false,
  ): Promise<void> {
    const written = new Map<string, Blob>();
    await fill(new MemoryFolder(written));
    for (const name of [...this.files.keys()]) if (isStale(name)) this.files.delete(name);
    for (const [name, file] of written) this.files.set(name, file);
  }
}

/** Makes a file, and drops each piece once it is in a `Blob`, which a browser may keep out of memory. */
async function blobOf(pieces: Pieces): Promise<Blob> {
  const parts: Blob[] = [];
  for await (const piece of pieces) parts.push(new Blob([piece as Uint8Array<ArrayBuffer>]));
  return new Blob(parts);
}
