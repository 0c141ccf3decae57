import {posix} from 'node:path';
import {nearestNames, TfjsLoraError} from '../../quant/errors.ts';
import type {HubContents} from './fetchSnapshot.ts';

/** Which part of a hub data set. */
export interface DatasetPart {
  id: string;
  /** A configuration. */
  subset?: string;
  split: string;
  /** The folder its files are in. */
  folder?: string;
}

/** A configuration in a data set's README. */
interface CardConfig {
  config_name?: string;
  data_dir?: string;
  data_files?: string | string[] | {split: string; path: string | string[]}[];
  default?: boolean;
}

/** Words that tell splits from one another in names of files and folders, as Hugging Face's `datasets` reads them. */
const SPLIT_WORDS: Record<string, string[]> = {
  train: ['train', 'training'],
  validation: ['validation', 'valid', 'dev', 'val'],
  test: ['test', 'testing', 'eval', 'evaluation'],
};

/**
 * The files of one split of a hub data set: as its README says, else by the names of folders and files, else all.
 *
 * @param isData whether a file can be read as data
 * @throws TfjsLoraError `INVALID_CONFIG` naming the subset or split and those there are
 */
export function datasetFiles(
  {paths, card}: HubContents,
  part: DatasetPart,
  isData: (path: string) => boolean,
): string[] {
  const {id, subset, split, folder} = part;
  const config = chooseConfig(card, part);
  const directory = folder ?? config?.data_dir ?? (config ? undefined : subset);
  const below = paths.filter(
    (path) => isData(path) && (!directory || path.startsWith(`${directory.replace(/^\.?\/|\/$/g, '')}/`)),
  );
  const splits = config?.data_files ? splitsOfCard(config.data_files, directory, paths) : splitsByName(below);
  const files = splits.get(split);
  if (files && files.length > 0) return files;
  const found = [...splits.keys()];
  const other = paths.filter((path) => /\.\w+$/.test(path)).slice(0, 5);
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `dataset ${id} split: expected data files for '${split}'${directory ? ` in ${directory}` : ''}, got ` +
      (found.length > 0
        ? `the splits ${found.join(', ')}. Nearest: ${nearestNames(split, found, 1)}.`
        : `none (${other.join(', ') || 'no files'}). Files are read as json, jsonl, csv, parquet or txt.`),
  );
}

function chooseConfig(card: unknown, {id, subset}: DatasetPart): CardConfig | undefined {
  const given = (card as {configs?: unknown} | undefined)?.configs;
  const configs = Array.isArray(given) ? (given as CardConfig[]) : [];
  if (configs.length === 0) return undefined;
  const nameOf = ({config_name: name = 'default'}: CardConfig) => name;
  const chosen =
    subset !== undefined
      ? configs.find((config) => nameOf(config) === subset)
      : (configs.find((config) => config.default || nameOf(config) === 'default') ??
        (configs.length === 1 ? configs[0] : undefined));
  if (chosen) return chosen;
  const names = configs.map(nameOf);
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `dataset ${id} subset: expected one of ${names.join(', ')}, got ${subset === undefined ? 'none' : `'${subset}'`}. ` +
      (subset === undefined ? 'Choose one.' : `Nearest: ${nearestNames(subset, names, 1)}.`),
  );
}

function splitsOfCard(
  given: NonNullable<CardConfig['data_files']>,
  directory: string | undefined,
  paths: string[],
): Map<string, string[]> {
  const entries = typeof given === 'string' ? [given] : given;
  const splits = new Map<string, string[]>();
  for (const entry of entries) {
    const {split, path} = typeof entry === 'string' ? {split: 'train', path: entry} : entry;
    const patterns = [path].flat().map((pattern) => toPattern(posix.join(directory ?? '', pattern)));
    const files = paths.filter((file) => patterns.some((pattern) => pattern.test(file)));
    splits.set(split, [...(splits.get(split) ?? []), ...files]);
  }
  return splits;
}

function splitsByName(paths: string[]): Map<string, string[]> {
  const shards = grouped(paths, (path) => /(?:^|\/)data\/([^/]+?)-\d{5}-of-\d{5}[^/]*$/.exec(path)?.[1]);
  if (shards.size > 0) return shards;
  const byFolder = grouped(paths, (path) => splitNamedIn(posix.dirname(path)));
  if (byFolder.size > 0) return byFolder;
  const byFile = grouped(paths, (path) => splitNamedIn(posix.basename(path)));
  return byFile.size > 0 || paths.length === 0 ? byFile : new Map([['train', paths]]);
}

function grouped(paths: string[], splitOf: (path: string) => string | undefined): Map<string, string[]> {
  const splits = new Map<string, string[]>();
  for (const path of paths) {
    const split = splitOf(path);
    if (split !== undefined) splits.set(split, [...(splits.get(split) ?? []), path]);
  }
  return splits;
}

function splitNamedIn(name: string): string | undefined {
  const words = name.toLowerCase().split(/[-._ \d/]+/);
  return Object.keys(SPLIT_WORDS).find((split) => SPLIT_WORDS[split].some((word) => words.includes(word)));
}

/** A pattern of file names (`*`, `**`, `?`, `[0-9]`, `{a,b}`) as a regular expression. */
function toPattern(glob: string): RegExp {
  const escaped = (text: string) => text.replace(/[.+^$()|\\\][{}*?]/g, '\\$&');
  const source = glob.replace(/\*\*\/?|\*|\?|\{[^}]*\}|\[[^\]]+\]|[^*?{[]+|./g, (part) => {
    if (part === '**/') return '(?:.*/)?';
    if (part === '**') return '.*';
    if (part === '*') return '[^/]*';
    if (part === '?') return '[^/]';
    if (/^\{.*\}$/.test(part)) return `(?:${part.slice(1, -1).split(',').map(escaped).join('|')})`;
    if (/^\[.+\]$/.test(part)) return part.replace('[!', '[^');
    return escaped(part);
  });
  return new RegExp(`^${source}$`);
}
