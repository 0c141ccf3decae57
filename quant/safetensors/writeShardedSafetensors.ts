import * as fs from 'node:fs';
import {join} from 'node:path';
import {TfjsLoraError} from '../errors.ts';
import {assertKnownOptions, type OptionNames} from '../knownOptions.ts';
import {byteLengthOf} from './safetensorsDtype.ts';
import {buildHeader, compareByCodePoint} from './safetensorsHeader.ts';
import {StagedFile, syncFolder} from './stagedFile.ts';
import {DEFAULT_METADATA, stageSafetensors, type TensorToWrite} from './writeSafetensors.ts';

export interface ShardedWriteOptions {
  /** Maximum bytes of tensors in a shard, default 5 GB (5e9). A larger tensor gets its own shard. */
  maxShardBytes?: number;
  /** Each file's `__metadata__`, default `{format: 'pt'}`. */
  metadata?: Readonly<Record<string, string>>;
  /** Part of the file names before `.safetensors`, default `model`. */
  baseName?: string;
  /** Number that the index stores as `total_parameters`, as in transformers 5. Left out by default. */
  totalParameters?: number;
}
const SHARDED_WRITE_OPTIONS = {
  maxShardBytes: true,
  metadata: true,
  baseName: true,
  totalParameters: true,
} satisfies OptionNames<ShardedWriteOptions>;

export interface ShardedWriteResult {
  /** Names of the tensor files written, in order. */
  files: string[];
  /** Bytes of all tensors. */
  totalSize: number;
}

/**
 * Writes tensors to a folder as transformers' `save_pretrained` does: `model.safetensors` when they fit into one
 * shard, otherwise `model-00001-of-0000N.safetensors`… and `model.safetensors.index.json`. Shards are filled in the
 * order of the tensors.
 *
 * All files are written under temporary names first and renamed together at the end. Files of an earlier save that the
 * new one does not replace are then removed, so that a reader cannot load a mixture.
 *
 * @throws TfjsLoraError as {@link writeSafetensors}
 */
export async function writeShardedSafetensors(
  folder: string,
  tensors: Iterable<TensorToWrite>,
  options: ShardedWriteOptions = {},
): Promise<ShardedWriteResult> {
  assertKnownOptions('writeShardedSafetensors', options, SHARDED_WRITE_OPTIONS);
  const {shards, files, index, baseName, totalSize} = planShards(folder, tensors, options);
  const {metadata = DEFAULT_METADATA} = options;
  const staged: StagedFile[] = [];
  try {
    for (const [i, shard] of shards.entries()) {
      staged.push(await stageSafetensors(join(folder, files[i]), shard, metadata));
    }
    if (index) {
      const file = new StagedFile(join(folder, index.name));
      staged.push(file);
      file.write(index.bytes);
      file.seal();
      // Readers refuse a save without an index, should this one be interrupted below. With the old index, shards of
      // two saves could pass for a model.
      fs.rmSync(join(folder, index.name), {force: true});
    }
    for (const file of staged) file.publish();
  } catch (error) {
    for (const file of staged) file.discard();
    throw error;
  }
  syncFolder(folder);
  for (const name of earlierSave(fs.readdirSync(folder), baseName, files)) fs.rmSync(join(folder, name));
  return {files, totalSize};
}

/** Assignment of tensors to files, made before the first byte is written. */
export interface ShardPlan {
  baseName: string;
  shards: TensorToWrite[][];
  /** A name for each shard. */
  files: string[];
  /** The index, when there are several files. */
  index?: {name: string; bytes: Uint8Array};
  totalSize: number;
}

/** Assigns tensors to files. @throws TfjsLoraError as {@link writeShardedSafetensors}, but not for the tensors' data */
export function planShards(
  folder: string,
  tensors: Iterable<TensorToWrite>,
  {
    maxShardBytes = 5e9,
    metadata = DEFAULT_METADATA,
    baseName = 'model',
    totalParameters,
  }: ShardedWriteOptions,
): ShardPlan {
  if (!(maxShardBytes > 0)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `writeShardedSafetensors [maxShardBytes]: expected a number above 0, got ${maxShardBytes}.`,
    );
  }
  const all = [...tensors];
  buildHeader(all, metadata, folder); // finds a name used in two shards, and whatever else is wrong
  const shards = splitIntoShards(all, maxShardBytes);
  const files = shards.map((_, i) => shardName(baseName, i, shards.length));
  const totalSize = all.reduce((sum, {dtype, shape}) => sum + byteLengthOf(dtype, shape), 0);
  const index = shards.length > 1 && {
    name: `${baseName}.safetensors.index.json`,
    bytes: indexBytes(shards, files, totalSize, totalParameters),
  };
  return {baseName, shards, files, totalSize, ...(index && {index})};
}

/** Splits greedily and in order, as huggingface_hub does. Without tensors, there is one empty shard. */
function splitIntoShards(tensors: readonly TensorToWrite[], maxShardBytes: number): TensorToWrite[][] {
  const shards: TensorToWrite[][] = [];
  let current: TensorToWrite[] = [];
  let currentBytes = 0;
  for (const tensor of tensors) {
    const bytes = byteLengthOf(tensor.dtype, tensor.shape);
    if (bytes > maxShardBytes) {
      shards.push([tensor]); // the current shard continues after it
      continue;
    }
    if (currentBytes + bytes > maxShardBytes) {
      shards.push(current);
      current = [];
      currentBytes = 0;
    }
    current.push(tensor);
    currentBytes += bytes;
  }
  if (current.length > 0 || shards.length === 0) shards.push(current);
  return shards;
}

function shardName(baseName: string, index: number, count: number): string {
  if (count === 1) return `${baseName}.safetensors`;
  const padded = (value: number) => String(value).padStart(5, '0');
  return `${baseName}-${padded(index + 1)}-of-${padded(count)}.safetensors`;
}

/** Writes the index as Python's `json.dumps(index, indent=2, sort_keys=True)` does, with a newline at the end. */
function indexBytes(
  shards: readonly TensorToWrite[][],
  files: readonly string[],
  totalSize: number,
  totalParameters: number | undefined,
): Uint8Array {
  const fileOfTensor = shards.flatMap((shard, i) =>
    shard.map(({name}): [string, string] => [name, files[i]]),
  );
  fileOfTensor.sort(([a], [b]) => compareByCodePoint(a, b));
  const metadata =
    totalParameters === undefined
      ? {total_size: totalSize}
      : {total_parameters: totalParameters, total_size: totalSize};
  // Line by line, since an object would move names that look like numbers to the front.
  const entries = fileOfTensor.map(([name, file]) => `    ${asciiJson(name)}: ${asciiJson(file)}`);
  const metadataText = JSON.stringify({metadata}, null, 2).slice(0, -2);
  return new TextEncoder().encode(`${metadataText},\n  "weight_map": {\n${entries.join(',\n')}\n  }\n}\n`);
}

function asciiJson(text: string): string {
  const escaped = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, escaped);
}

/** Returns the files in a folder that an earlier save wrote and this one does not replace. */
export function earlierSave(names: readonly string[], baseName: string, files: readonly string[]): string[] {
  return names.filter((name) => {
    if (!name.startsWith(baseName) || files.includes(name)) return false;
    const suffix = name.slice(baseName.length);
    if (suffix === '.safetensors.index.json') return files.length === 1;
    return suffix === '.safetensors' || /^-\d{5}-of-\d{5}\.safetensors$/.test(suffix);
  });
}
