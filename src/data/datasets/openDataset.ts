import {readdir, stat} from 'node:fs/promises';
import {isAbsolute, join, resolve} from 'node:path';
import {nearestNames, TfjsLoraError} from '../../../quant/errors.ts';
import {datasetFiles} from '../hub/datasetFiles.ts';
import {fetchSnapshot, type HubContents} from '../hub/fetchSnapshot.ts';
import type {HubOptions} from '../hub/hubOptions.ts';
import type {DatasetSource} from './datasetInfo.ts';
import {kindOfFile, readRecords} from './readRecords.ts';
import type {SourceRecord} from './sourceRecord.ts';

/** A data set whose files are on the disk. */
export interface OpenDataset {
  source: DatasetSource;
  files: string[];
}

/**
 * Finds a data set's files and fetches those on the hub.
 *
 * @param folder the data folder, to which file names are relative
 * @throws TfjsLoraError `FILE_NOT_FOUND`, `INVALID_CONFIG` or `UNSUPPORTED`, naming the data set
 */
export async function openDataset(
  source: DatasetSource,
  folder: string,
  hub: HubOptions,
): Promise<OpenDataset> {
  const files =
    source.location.kind === 'hub' ? await hubFiles(source, hub) : await localFiles(source, folder);
  return {source, files};
}

/** Reads the records of all the files, one file after the other. */
export async function* recordsOf({files}: OpenDataset): AsyncGenerator<SourceRecord, void, undefined> {
  for (const file of files) yield* readRecords(file);
}

async function hubFiles(source: DatasetSource, hub: HubOptions): Promise<string[]> {
  const {location, subset, split, folder} = source;
  const {id, path} = location as {id: string; path?: string};
  assertWholeSplit(source);
  const part = {id, subset, split, folder};
  const isData = (each: string) => kindOfFile(each) !== undefined;
  const snapshot = await fetchSnapshot(
    {
      repository: {kind: 'dataset', id},
      select: (contents) =>
        path === undefined
          ? datasetFiles(contents, part, isData)
          : namedFiles(contents, source, path, isData),
      needed: path ?? `the data files (json, jsonl, csv, parquet or txt) of the split '${split}'`,
    },
    hub,
  );
  return snapshot.files.map((file) => join(snapshot.folder, file));
}

/** Returns the file that a repository's `dataset_info.json` names, or the data files of the folder it names. */
function namedFiles(
  {paths}: HubContents,
  source: DatasetSource,
  named: string,
  isData: (path: string) => boolean,
): string[] {
  assertOnlySplit(source);
  if (paths.includes(named)) return [named];
  const below = paths.filter((path) => path.startsWith(`${named}/`) && isData(path));
  if (below.length > 0) return below;
  throw new TfjsLoraError(
    'FILE_NOT_FOUND',
    `dataset ${source.name} file_name: expected a file or folder of the repository, got ${named}. ` +
      `Nearest: ${nearestNames(named, paths).join(', ') || 'no files'}.`,
  );
}

async function localFiles(source: DatasetSource, folder: string): Promise<string[]> {
  const {name, location} = source;
  const given = (location as {path: string}).path;
  const path = isAbsolute(given) ? given : join(folder, given);
  assertOnlySplit(source);
  const found = await stat(path).catch(() => undefined);
  if (!found) {
    const near = await readdir(resolve(path, '..')).catch(() => []);
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `dataset ${name} file_name: expected a file or folder, got nothing at ${resolve(path)}. ` +
        `Nearest: ${nearestNames(given, near).join(', ') || 'the folder is missing or empty'}.`,
    );
  }
  if (!found.isDirectory()) return [path];
  const files = (await readdir(path)).filter((file) => !file.startsWith('.')).sort();
  const kindOf = (file: string) => {
    const kind = kindOfFile(file);
    return kind === 'jsonl' ? 'json' : kind; // Hugging Face's loader treats both as one kind
  };
  const kinds = [...new Set(files.map(kindOf))];
  if (kinds.length === 1 && kinds[0] !== undefined) return files.map((file) => join(path, file));
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `dataset ${name} file_name: expected a folder of data files of one kind, got ` +
      `${files.slice(0, 5).join(', ') || 'no files'} in ${resolve(path)}`,
  );
}

function assertOnlySplit({name, split}: DatasetSource): void {
  if (split === 'train') return;
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `dataset ${name} split: expected 'train', the one split of a file, got '${split}'. ` +
      'Make a separate data set for each split.',
  );
}

function assertWholeSplit({name, split}: DatasetSource): void {
  if (/^[\w.-]+$/.test(split)) return;
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `dataset ${name} split: expected the name of one split, got '${split}'. ` +
      'Use num_samples or max_samples to read a part of it.',
  );
}
