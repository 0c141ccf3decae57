import * as fs from 'node:fs';
import {join} from 'node:path';
import {TfjsLoraError} from '../errors.ts';
import {assertKnownOptions, type OptionNames} from '../knownOptions.ts';
import {byteLengthOf} from './safetensorsDtype.ts';
import {buildHeader, compareByCodePoint} from './safetensorsHeader.ts';
import {StagedFile, syncFolder} from './stagedFile.ts';
import {DEFAULT_METADATA, stageSafetensors, type TensorToWrite} from './writeSafetensors.ts';

export interface ShardedWriteOptions {
  /** Bytes of tensors in a shard, default 5 GB (5e9). A larger tensor gets a shard of its own. */
  maxShardBytes?: number;
  /** Each file's `__metadata__`, default `{format: 'pt'}`. */
  metadata?: Readonly<Record<string, string>>;
  /** The files' name before `.safetensors`, default `model`. */
  baseName?: string;
  /** Written into the index as `total_parameters`, as transformers 5 does; left out by default. */
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
 * shard, else `model-00001-of-0000N.safetensors`… and `model.safetensors.index.json`. Shards are filled in the
 * order the tensors come.
 *
 * All files are written under temporary names first and take their places together at the end; then files of an
 * earlier save that the new one does not replace are removed, so that a reader cannot pick up a mixture.
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
      // Without an index a save that is interrupted below is refused by readers; with the old one, shards of two
      // saves could pass for a model.
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

/** Which tensors go into which file, before the first byte is written. */
export interface ShardPlan {
  baseName: string;
  shards: TensorToWrite[][];
  /** A name for each shard. */
  files: string[];
  /** When there are several. */
  index?: {name: string; bytes: Uint8Array};
  totalSize: number;
}

/** @throws TfjsLoraError as {@link writeShardedSafetensors}, but for the tensors' data */
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

/** Greedy, in order, as huggingface_hub splits; one empty shard when there are no tensors. */
function splitIntoShards(tensors: readonly TensorToWrite[], maxShardBytes: number): TensorToWrite[][] {
  const shards: TensorToWrite[][] = [];
  let current: TensorToWrite[] = [];
  let currentBytes = 0;
  for (const tensor of tensors) {
    const bytes = byteLengthOf(tensor.dtype, tensor.shape);
    if (bytes > maxShardBytes) {
      shards.push([tensor]); // the shard being filled goes on after it
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

/** The index as Python's `json.dumps(index, indent=2, sort_keys=True)` prints it, with a newline at its end. */
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

/** Those of a folder's files that an earlier save wrote and this one does not replace. */
export function earlierSave(names: readonly string[], baseName: string, files: readonly string[]): string[] {
  return names.filter((name) => {
    if (!name.startsWith(baseName) || files.includes(name)) return false;
    const suffix = name.slice(baseName.length);
    if (suffix === '.safetensors.index.json') return files.length === 1;
    return suffix === '.safetensors' || /^-\d{5}-of-\d{5}\.safetensors$/.test(suffix);
  });
}
