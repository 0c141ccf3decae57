import * as fs from 'node:fs';
import {join} from 'node:path';
import {decodeUtf8} from '../decodeUtf8.ts';
import {nearestNames, TfjsLoraError} from '../errors.ts';
import {parseStrictJson} from '../parseJson.ts';
import {corruptFile} from '../safetensors/corruptFile.ts';
import {SafetensorsFile} from '../safetensors/safetensorsFile.ts';
import type {TensorInfo} from '../safetensors/safetensorsHeader.ts';
import {show} from '../show.ts';
import {type Folder, readText} from './folder.ts';

/**
 * All tensors of a Hugging Face folder, whichever of its files stores them: one `model.safetensors`, or the shards
 * that `model.safetensors.index.json` lists. When a folder has both, the single file is read, as in transformers.
 *
 * A tensor that is stored in a listed shard without being listed itself is read too, as in transformers; one that two
 * shards store is read from the shard that the index names.
 *
 * @example
 * ```ts
 * import {SafetensorsFolder} from 'tfjs-lora/quant';
 *
 * const folder = SafetensorsFolder.open('Llama-3.2-1B');
 * console.log(folder.info('model.norm.weight')); // {dtype: 'BF16', shape: [2048], …}
 * const norm = folder.readFloat32('model.norm.weight');
 * folder.close();
 * ```
 */
export class SafetensorsFolder {
  readonly folder: string;
  /** The opened files, in the order of their names. */
  readonly files: readonly SafetensorsFile[];
  private readonly fileOfTensor: ReadonlyMap<string, SafetensorsFile>;

  private constructor(
    folder: string,
    files: readonly SafetensorsFile[],
    fileOfTensor: ReadonlyMap<string, SafetensorsFile>,
  ) {
    this.folder = folder;
    this.files = files;
    this.fileOfTensor = fileOfTensor;
  }

  /**
   * Opens and checks every file of the model; they stay open until {@link close}.
   *
   * @param baseName the files' name before `.safetensors`, default `model`
   * @throws TfjsLoraError `FILE_NOT_FOUND` when the folder has neither file or lacks a shard; `CORRUPT_FILE` when
   *   a file or the index is damaged; `MISSING_TENSOR` when a shard lacks a tensor the index says it has
   */
  static open(folder: string, baseName = 'model'): SafetensorsFolder {
    const single = join(folder, `${baseName}.safetensors`);
    if (fs.existsSync(single)) {
      const file = SafetensorsFile.open(single);
      return new SafetensorsFolder(folder, [file], new Map(file.names().map((name) => [name, file])));
    }
    const indexPath = join(folder, `${baseName}.safetensors.index.json`);
    if (!fs.existsSync(indexPath)) throw noTensors(folder, baseName, listedOnDisk(folder));
    const weightMap = readWeightMap(readIndex(indexPath), indexPath);
    const shards = new Map<string, SafetensorsFile>();
    try {
      for (const shard of shardsOf(weightMap)) {
        if (!fs.existsSync(join(folder, shard))) throw missingShard(folder, shard, indexPath);
        shards.set(shard, SafetensorsFile.open(join(folder, shard)));
      }
      return SafetensorsFolder.ofShards(folder, indexPath, weightMap, shards);
    } catch (error) {
      for (const file of shards.values()) file.close();
      throw error;
    }
  }

  /**
   * Does what {@link open} does, for any kind of folder. Its tensors are read with {@link load}.
   *
   * @throws TfjsLoraError as {@link open}
   */
  static async fromFolder(folder: Folder, baseName = 'model'): Promise<SafetensorsFolder> {
    const single = `${baseName}.safetensors`;
    if (await folder.has(single)) {
      const file = await folder.openSafetensors(single);
      return new SafetensorsFolder(folder.path, [file], new Map(file.names().map((name) => [name, file])));
    }
    const indexName = `${baseName}.safetensors.index.json`;
    const indexPath = folder.pathOf(indexName);
    const index = await readText(folder, indexName);
    if (index === undefined) throw noTensors(folder.path, baseName, listed(await folder.names()));
    const weightMap = readWeightMap(index, indexPath);
    const shards = new Map<string, SafetensorsFile>();
    try {
      for (const shard of shardsOf(weightMap)) {
        if (!(await folder.has(shard))) throw missingShard(folder.path, shard, indexPath);
        shards.set(shard, await folder.openSafetensors(shard));
      }
      return SafetensorsFolder.ofShards(folder.path, indexPath, weightMap, shards);
    } catch (error) {
      for (const file of shards.values()) file.close();
      throw error;
    }
  }

  private static ofShards(
    folder: string,
    indexPath: string,
    weightMap: ReadonlyMap<string, string>,
    shards: ReadonlyMap<string, SafetensorsFile>,
  ): SafetensorsFolder {
    const files = [...shards.values()];
    const fileOfTensor = new Map<string, SafetensorsFile>();
    for (const file of files) for (const name of file.names()) fileOfTensor.set(name, file);
    for (const [name, shard] of weightMap) {
      const file = shards.get(shard)!;
      if (!file.has(name)) throw absentFromShard(name, file, indexPath);
      fileOfTensor.set(name, file);
    }
    return new SafetensorsFolder(folder, files, fileOfTensor);
  }

  /** Returns the names of all tensors, file by file and in the order of their bytes: this order reads forwards. */
  names(): string[] {
    return this.files.flatMap((file) => file.names().filter((name) => this.fileOfTensor.get(name) === file));
  }

  has(name: string): boolean {
    return this.fileOfTensor.has(name);
  }

  /** @throws TfjsLoraError `MISSING_TENSOR` with the nearest names when no file has a tensor `name` */
  info(name: string): TensorInfo {
    return this.fileOf(name).info(name);
  }

  /** Returns the file that a tensor is read from. @throws TfjsLoraError as {@link info} */
  fileOf(name: string): SafetensorsFile {
    const file = this.fileOfTensor.get(name);
    if (file === undefined) {
      const nearest = nearestNames(name, this.fileOfTensor.keys()).join(', ') || 'none, it has no tensors';
      throw new TfjsLoraError(
        'MISSING_TENSOR',
        `Tensor ${show(name)} [${this.folder}]: expected it in the folder, got no such name. ` +
          `Nearest: ${nearest}.`,
      );
    }
    return file;
  }

  /** Calls {@link SafetensorsFile.read} on the file that has the tensor. */
  read(name: string): Uint8Array {
    return this.fileOf(name).read(name);
  }

  /** Calls {@link SafetensorsFile.load} on the file that has the tensor. */
  load(name: string): Promise<Uint8Array> {
    return this.fileOf(name).load(name);
  }

  /** Calls {@link SafetensorsFile.readRange} on the file that has the tensor. */
  readRange(name: string, begin: number, end: number): Uint8Array {
    return this.fileOf(name).readRange(name, begin, end);
  }

  /** Calls {@link SafetensorsFile.readInto} on the file that has the tensor. */
  readInto(name: string, target: ArrayBufferView, begin = 0): void {
    this.fileOf(name).readInto(name, target, begin);
  }

  /** Calls {@link SafetensorsFile.readFloat32} on the file that has the tensor. */
  readFloat32(name: string): Float32Array {
    return this.fileOf(name).readFloat32(name);
  }

  /** Closes every file. Closing twice does nothing. */
  close(): void {
    for (const file of this.files) file.close();
  }
}

function readIndex(path: string): string {
  let bytes: Uint8Array;
  try {
    bytes = fs.readFileSync(path);
  } catch (cause) {
    const got = (cause as Error).message;
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `Checkpoint index [${path}]: expected a readable file, got ${got}`,
      {
        cause,
      },
    );
  }
  return decodeUtf8(bytes, path);
}

/** Reads the index's `weight_map`: tensor → shard file. Its `metadata` is not needed and not checked. */
function readWeightMap(text: string, indexPath: string): Map<string, string> {
  const what = 'Checkpoint index';
  let index: unknown;
  try {
    index = parseStrictJson(text);
  } catch (cause) {
    const fault = `expected valid JSON, got ${(cause as Error).message}`;
    throw corruptFile(what, indexPath, fault, undefined, {cause});
  }
  const weightMap = (index as {weight_map?: unknown} | null)?.weight_map;
  if (typeof weightMap !== 'object' || weightMap === null || Array.isArray(weightMap)) {
    throw corruptFile(what, indexPath, `expected weight_map to be an object, got ${show(weightMap)}`);
  }
  const entries = Object.entries(weightMap);
  if (entries.length === 0)
    throw corruptFile(what, indexPath, 'expected weight_map to name tensors, got none');
  for (const [name, shard] of entries) {
    const entry = `weight_map ${show(name)}`;
    if (typeof shard !== 'string') {
      throw corruptFile(entry, indexPath, `expected a file name, got ${show(shard)}`);
    }
    if (!isPlainFileName(shard)) {
      const advice = 'A shard must be in the folder of its index: get the model from a source you trust.';
      throw corruptFile(entry, indexPath, `expected a plain file name, got ${show(shard)}`, advice);
    }
  }
  return new Map(entries);
}

/** Returns the files that an index names, in order. */
const shardsOf = (weightMap: ReadonlyMap<string, string>): string[] =>
  [...new Set(weightMap.values())].sort();

/** Whether a name from an index refers to the index's own folder on every operating system. */
function isPlainFileName(name: string): boolean {
  return name !== '' && name !== '.' && name !== '..' && !/[/\\:\0]/.test(name);
}

/** Parts of the message about a folder without model files: its contents and what to do. */
interface Listed {
  got: string;
  advice: string;
}

function noTensors(folder: string, baseName: string, {got, advice}: Listed): TfjsLoraError {
  const wanted = `${baseName}.safetensors or ${baseName}.safetensors.index.json`;
  return new TfjsLoraError(
    'FILE_NOT_FOUND',
    `Checkpoint folder [${folder}]: expected ${wanted}, got ${got}. ${advice}`,
  );
}

function listedOnDisk(folder: string): Listed {
  try {
    return listed(fs.readdirSync(folder));
  } catch (error) {
    return {got: (error as Error).message, advice: 'Check the path.'};
  }
}

function listed(names: readonly string[] | undefined): Listed {
  const others = names?.filter((name) => /\.(bin|pth?|gguf|h5|msgpack)$/.test(name)).sort() ?? [];
  const advice = others.length > 0 ? howToConvert(others[0]) : 'Check the path.';
  if (!names) return {got: 'neither', advice};
  return {
    got: names.length === 0 ? 'an empty folder' : `a folder with ${show([...names].sort())}`,
    advice,
  };
}

function howToConvert(file: string): string {
  const from = file.endsWith('.gguf') ? `folder, gguf_file="${file}"` : 'folder';
  return (
    `Only safetensors is read: convert ${file} first. In Python, with transformers: ` +
    `AutoModelForCausalLM.from_pretrained(${from}).save_pretrained(folder).`
  );
}

function missingShard(folder: string, shard: string, indexPath: string): TfjsLoraError {
  return new TfjsLoraError(
    'FILE_NOT_FOUND',
    `Shard ${show(shard)} [${folder}]: expected it because ${indexPath} lists it, got no such file. ` +
      'Download the whole model.',
  );
}

function absentFromShard(name: string, file: SafetensorsFile, indexPath: string): TfjsLoraError {
  return new TfjsLoraError(
    'MISSING_TENSOR',
    `Tensor ${show(name)} [${file.path}]: expected it because ${indexPath} says it is there, ` +
      'got a shard without it. Index and shards come from different saves: get them all from the same one.',
  );
}
