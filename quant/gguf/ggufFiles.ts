import {TfjsLoraError} from '../errors.ts';
import type {Folder} from '../folders/folder.ts';
import {openBytes} from '../folders/openBytes.ts';
import {type FolderSource, openFolder} from '../folders/openFolder.ts';
import {corruptFile} from '../safetensors/corruptFile.ts';
import {show} from '../show.ts';
import type {GgufTensorInfo} from './ggufHeader.ts';
import {GgufReader} from './ggufReader.ts';
import type {GgufValue} from './ggufValue.ts';

/** The name of a part of a model that is split over several files. */
const PART = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

/** Returns the names of all parts of the model that a file belongs to: itself alone if it is not split. */
export function ggufParts(name: string): string[] {
  const parts = PART.exec(name);
  const [, base, , count] = parts ?? [];
  if (!Number(count)) return [name];
  return Array.from(
    {length: Number(count)},
    (_, i) => `${base}-${String(i + 1).padStart(5, '0')}-of-${count}.gguf`,
  );
}

/** The tensors of a GGUF model, in one file or split (`-00001-of-00003.gguf`), and the metadata of the first. */
export class GgufFiles {
  /** All tensors, file by file and in the order of their bytes. */
  readonly tensors: ReadonlyMap<string, GgufTensorInfo>;
  private readonly fileOfTensor: ReadonlyMap<string, GgufReader>;

  private constructor(readonly files: readonly GgufReader[]) {
    const tensors = new Map<string, GgufTensorInfo>();
    const fileOfTensor = new Map<string, GgufReader>();
    for (const file of files) {
      for (const [name, info] of file.tensors) {
        const other = fileOfTensor.get(name);
        if (other) {
          const fault = `expected it in one part, got it in ${other.path} too`;
          throw corruptFile(`Tensor ${show(name)}`, file.path, fault);
        }
        tensors.set(name, info);
        fileOfTensor.set(name, file);
      }
    }
    this.tensors = tensors;
    this.fileOfTensor = fileOfTensor;
  }

  /**
   * Opens a file, and the other parts if it is one of several.
   *
   * @param name the file's name in the folder
   * @throws TfjsLoraError `FILE_NOT_FOUND` when it or another part is missing; as `GgufReader.open`; `CORRUPT_FILE` when
   *   the parts do not belong together
   */
  static async open(source: FolderSource, name: string): Promise<GgufFiles> {
    const folder = openFolder(source);
    const files: GgufReader[] = [];
    try {
      for (const part of ggufParts(name)) {
        const path = folder.pathOf(part);
        files.push(await GgufReader.open(await openPart(folder, part), path));
      }
      for (const [i, file] of files.entries()) assertPart(file, i, files.length);
      return new GgufFiles(files);
    } catch (error) {
      for (const file of files) file.close();
      throw error;
    }
  }

  get path(): string {
    return this.files[0].path;
  }

  get metadata(): ReadonlyMap<string, GgufValue> {
    return this.files[0].metadata;
  }

  /** Returns the file that has a tensor. @throws TfjsLoraError `MISSING_TENSOR` with the nearest names */
  fileOf(name: string): GgufReader {
    const file = this.fileOfTensor.get(name);
    if (file) return file;
    this.files[0].info(name);
    return this.files[0];
  }

  /** Calls {@link GgufReader.load} on the file that has the tensor. */
  load(name: string): Promise<Uint8Array> {
    return this.fileOf(name).load(name);
  }

  /** Calls {@link GgufReader.loadFloat32} on the file that has the tensor. */
  loadFloat32(name: string): Promise<Float32Array> {
    return this.fileOf(name).loadFloat32(name);
  }

  /** Closes every file. Closing twice does nothing. */
  close(): void {
    for (const file of this.files) file.close();
  }
}

async function openPart(folder: Folder, name: string) {
  const bytes = await openBytes(folder, name);
  if (bytes) return bytes;
  throw new TfjsLoraError(
    'FILE_NOT_FOUND',
    `GGUF file [${folder.pathOf(name)}]: expected a readable file, got none of that name. ` +
      'Check the path; a split model needs all its parts.',
  );
}

/** Checks that a file says that it is this part of so many. */
function assertPart(file: GgufReader, index: number, count: number): void {
  const numberAt = (key: string, fallback: number) => {
    const entry = file.metadata.get(key);
    return entry && 'value' in entry ? entry.value : fallback;
  };
  const [no, of] = [numberAt('split.no', index), numberAt('split.count', 1)];
  const isWhole = count === 1 && (of === 0 || of === 1);
  if (isWhole || (no === index && of === count)) return;
  const advice = 'Name a split file -00001-of-00003.gguf, as llama.cpp does, and keep its parts together.';
  const fault = `expected part ${index + 1} of ${count}, as its name says, got part ${Number(no) + 1} of ${of}`;
  throw corruptFile('GGUF file', file.path, fault, advice);
}
