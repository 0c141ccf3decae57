import {readFile} from 'node:fs/promises';
import {basename, dirname, resolve} from 'node:path';
import {counted} from '../../../quant/counted.ts';
import {decodeUtf8} from '../../../quant/decodeUtf8.ts';
import {nearestNames, TfjsLoraError} from '../../../quant/errors.ts';
import {didYouMeanPath} from '../../../quant/folders/similarPath.ts';
import {parseJson} from '../../../quant/parseJson.ts';
import {show} from '../../../quant/show.ts';
import {warn} from '../../../quant/warn.ts';
import {isRepositoryPath} from '../hub/repositoryPath.ts';
import {
  COLUMNS,
  type ColumnName,
  type DatasetFormat,
  DEFAULT_COLUMNS,
  DEFAULT_TAGS,
  type RecordFormat,
  type TagName,
} from './recordFormat.ts';

/** Contents of `dataset_info.json`: data sets by name. */
export type DatasetInfo = Record<string, DatasetEntry>;

/** One data set, with the keys of LLaMA-Factory's file. */
export interface DatasetEntry {
  /** A file, or a folder of files, relative to the data folder. */
  file_name?: string;
  /** A data set on the Hugging Face hub, `org/name`; overrides `file_name`. */
  hf_hub_url?: string;
  /** Default `alpaca`. */
  formatting?: DatasetFormat;
  /** Name of a configuration, for a data set on the hub. */
  subset?: string;
  /** Name of a split, for a data set on the hub. Default `train`. */
  split?: string;
  /** Folder of the data files, for a data set on the hub. */
  folder?: string;
  /**
   * Number of records to draw at random. If there are fewer, some are drawn again, up to a thousand times the number of
   * records.
   */
  num_samples?: number;
  /** Whether each record has a `chosen` and a `rejected` answer, under columns of these names. Default false. */
  ranking?: boolean | null;
  columns?: Partial<Record<ColumnName, string>>;
  tags?: Partial<Record<TagName, string>>;
  [other: string]: unknown;
}

const FORMATS: DatasetFormat[] = ['alpaca', 'sharegpt', 'openai'];

/** LLaMA-Factory's columns for models that read more than text. */
const OTHER_COLUMNS = ['images', 'videos', 'audios'];

const KEYS = [
  'file_name',
  'hf_hub_url',
  'formatting',
  'subset',
  'split',
  'folder',
  'num_samples',
  'columns',
  'tags',
  'ranking',
  'ms_hub_url',
  'om_hub_url',
  'script_url',
  'cloud_file_name',
];

/** A local file or folder; or a repository on the hub, or one file or folder in it. */
export type DatasetLocation = {kind: 'file'; path: string} | {kind: 'hub'; id: string; path?: string};

/** A data set with its defaults filled in. */
export interface DatasetSource extends RecordFormat {
  location: DatasetLocation;
  subset?: string;
  split: string;
  folder?: string;
  sampleCount?: number;
  /** Columns that the file names; records may lack the usual ones. */
  namedColumns: ReadonlySet<ColumnName>;
}

/** Returns the source of a hub data set that no file describes, with alpaca's keys. */
export function hubSource(id: string): DatasetSource {
  return completeSource(id, {hf_hub_url: id}, 'datasetDir ONLINE');
}

/**
 * Looks up data sets by name.
 *
 * @param where the file, for messages
 * @throws TfjsLoraError `INVALID_CONFIG` naming the data set and its key
 */
export function findSources(names: readonly string[], info: DatasetInfo, where: string): DatasetSource[] {
  return names.map((name) => {
    const entry = Object.hasOwn(info, name) ? info[name] : undefined;
    if (entry === undefined) {
      throw new TfjsLoraError(
        'INVALID_CONFIG',
        `${where}: expected an entry '${name}', got ${counted(Object.keys(info).length, 'other')}. ` +
          (DATA_FILE.test(name)
            ? `Name an entry instead of a file, such as ${entryFor(name, where)}.`
            : `Nearest: ${nearestNames(name, Object.keys(info)).join(', ') || 'none'}.`),
      );
    }
    return completeSource(name, entry, `${where} ${name}`);
  });
}

/**
 * Returns a data set described in a repository on the hub: the files it names belong to that repository.
 *
 * @throws TfjsLoraError `INVALID_CONFIG` when it names a file elsewhere
 */
export function insideRepository(source: DatasetSource, id: string): DatasetSource {
  const {name, location} = source;
  if (location.kind === 'hub') return source;
  const path = location.path.replace(/^(\.\/)+|\/+$/g, '');
  if (isRepositoryPath(path)) return {...source, location: {kind: 'hub', id, path}};
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `dataset_info.json of dataset ${id}, ${name} file_name: expected a file inside that repository, got ` +
      `${show(location.path)}.`,
  );
}

const DATA_FILE = /\.(jsonl?|csv|tsv|parquet|txt)(\.gz)?$/i;

/** Writes the entry for a file, whose name counts from the folder of `dataset_info.json`. */
function entryFor(file: string, where: string): string {
  const folder = where.slice(0, -basename(where).length);
  const inFolder = folder !== '' && file.startsWith(folder) ? file.slice(folder.length) : file;
  return `{"${file.replace(/^.*[\\/]|\.[^\\/]*$/g, '')}": {"file_name": "${inFolder}"}}`;
}

/**
 * Reads `dataset_info.json`.
 *
 * @param names the data sets that are wanted, for messages
 */
export async function readDatasetInfo(path: string, names: readonly string[] = []): Promise<DatasetInfo> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    const {code} = cause as NodeJS.ErrnoException;
    const isFile = code === 'ENOTDIR';
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `${resolve(path)}: expected the file that describes the data sets, got ` +
        `${code === 'ENOENT' || isFile ? 'none' : (cause as Error).message}. Write one ` +
        `(${entryFor(names.find((name) => DATA_FILE.test(name)) ?? 'name.json', path)}), name another data folder, or pass its ` +
        'contents as datasetDir.' +
        (isFile ? ` The data folder is ${dirname(dirname(path))}.` : didYouMeanPath(path)),
      {cause},
    );
  }
  const text = decodeUtf8(bytes, resolve(path));
  try {
    const info = parseJson(text);
    if (isObject(info)) return info as DatasetInfo;
    throw new Error(`${Array.isArray(info) ? 'a list' : typeof info}`);
  } catch (cause) {
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `${resolve(path)}: expected a JSON object of data sets by name, got: ${(cause as Error).message}`,
      {cause},
    );
  }
}

/** Usual names of columns in files, with the part of a record that they hold. */
const PARTS: Readonly<Record<string, ColumnName>> = {
  instruction: 'prompt',
  question: 'prompt',
  input: 'query',
  output: 'response',
  completion: 'response',
  answer: 'response',
  conversations: 'messages',
};

/** Advice for an unknown key of `columns` or `tags`. */
function partAdvice(part: string, value: unknown, known: string[]): string {
  if (known.includes(value as string)) return `Write it the other way round: {"${value}": "${part}"}.`;
  const meant = Object.hasOwn(PARTS, part) && known.includes(PARTS[part]) ? PARTS[part] : undefined;
  return `Nearest: ${meant ?? nearestNames(part, known, 1)}.`;
}

function completeSource(name: string, entry: DatasetEntry, where: string): DatasetSource {
  const invalid = (key: string, expected: string, got: unknown, advice = '') =>
    new TfjsLoraError(
      'INVALID_CONFIG',
      `${where} ${key}: expected ${expected}, got ${show(got)}.${advice && ` ${advice}`}`,
    );
  if (!isObject(entry)) throw invalid('', 'an object', entry);
  for (const key of Object.keys(entry)) {
    if (!KEYS.includes(key))
      warn(`${where} ${key}: unknown key, ignored. Nearest: ${nearestNames(key, KEYS, 1)}.`);
  }
  const {file_name: file, hf_hub_url: hub, formatting: format = 'alpaca'} = entry;
  const texts = ['file_name', 'hf_hub_url', 'formatting', 'subset', 'split', 'folder'] as const;
  for (const key of texts) {
    if (entry[key] != null && typeof entry[key] !== 'string') throw invalid(key, 'a string', entry[key]);
  }
  if (!file && !hub) {
    const got = Object.keys(entry).filter((key) => key.endsWith('_url') || key === 'cloud_file_name');
    throw new TfjsLoraError(
      'INVALID_CONFIG',
      `${where}: expected file_name or hf_hub_url, got ${got.join(', ') || 'neither'}. ` +
        'Only files and the Hugging Face hub are read.',
    );
  }
  if (!FORMATS.includes(format))
    throw invalid('formatting', FORMATS.join(', '), format, `Nearest: ${nearestNames(format, FORMATS, 1)}.`);
  const ranking = entry.ranking ?? false;
  if (typeof ranking !== 'boolean') throw invalid('ranking', 'true or false', ranking);
  for (const side of ['chosen', 'rejected'] as const) {
    if (ranking && !entry.columns?.[side])
      throw invalid(`columns ${side}`, 'a column, because ranking is true', entry.columns?.[side]);
  }
  const count = entry.num_samples ?? undefined;
  if (count !== undefined && !(Number.isInteger(count) && count > 0))
    throw invalid('num_samples', 'a positive integer', count);
  const known = {columns: [...COLUMNS, ...OTHER_COLUMNS], tags: Object.keys(DEFAULT_TAGS)};
  for (const key of ['columns', 'tags'] as const) {
    const map = entry[key] ?? {};
    if (!isObject(map)) throw invalid(key, 'an object', map);
    for (const [part, value] of Object.entries(map)) {
      if (!known[key].includes(part)) {
        throw new TfjsLoraError(
          'INVALID_CONFIG',
          `${where} ${key} ${part}: expected one of ${known[key].join(', ')}, got '${part}'. ` +
            partAdvice(part, value, known[key]),
        );
      }
      if (value != null && typeof value !== 'string') throw invalid(`${key} ${part}`, 'a string', value);
      if (value != null && OTHER_COLUMNS.includes(part)) {
        throw new TfjsLoraError(
          'UNSUPPORTED',
          `${where} columns ${part}: expected columns of text, got ${part}. Leave it out to train on the text only.`,
        );
      }
    }
  }
  const named = definedEntries(entry.columns);
  return {
    name,
    location: hub ? {kind: 'hub', id: hub} : {kind: 'file', path: file as string},
    format,
    ranking,
    subset: entry.subset ?? undefined,
    split: entry.split ?? 'train',
    folder: entry.folder ?? undefined,
    sampleCount: count,
    columns: entry.columns ? named : DEFAULT_COLUMNS,
    namedColumns: new Set(Object.keys(named) as ColumnName[]),
    tags: entry.tags ? definedEntries(entry.tags) : DEFAULT_TAGS,
  };
}

function definedEntries<K extends string>(map: Partial<Record<K, string>> = {}): Partial<Record<K, string>> {
  return Object.fromEntries(Object.entries(map).filter(([, value]) => value != null)) as Partial<
    Record<K, string>
  >;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
