import {posix} from 'node:path';
import {z} from 'zod';
import {PythonPattern} from '../../../models/patterns/pythonPattern.ts';
import {nearestNames, TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import type {HubContents} from './fetchSnapshot.ts';

/** The part of a hub data set to read. */
export interface DatasetPart {
  id: string;
  /** Name of a configuration. */
  subset?: string;
  split: string;
  /** Folder of its files. */
  folder?: string;
}

/** Treats null like undefined. */
const orNothing = <T>(schema: z.ZodType<T>) => schema.nullish().transform((value) => value ?? undefined);

const patterns = z.union([z.string(), z.array(z.string())]);

/** A configuration in a data set's README. */
const configSchema = z.object({
  config_name: orNothing(z.string()),
  data_dir: orNothing(z.string()),
  data_files: orNothing(
    z.union([z.string(), z.array(z.union([z.string(), z.object({split: z.string(), path: patterns})]))]),
  ),
  default: orNothing(z.boolean()),
});

type CardConfig = z.infer<typeof configSchema>;

/** Words that distinguish splits in names of files and folders, as Hugging Face's `datasets` reads them. */
const SPLIT_WORDS: Record<string, string[]> = {
  train: ['train', 'training'],
  validation: ['validation', 'valid', 'dev', 'val'],
  test: ['test', 'testing', 'eval', 'evaluation'],
};

/**
 * Selects the files of one split of a hub data set: those that its README names, or else those whose folders or file
 * names match, or else all.
 *
 * @param isData whether a file can be read as data
 * @throws TfjsLoraError `INVALID_CONFIG` naming the subset or split and the available ones; `CORRUPT_FILE` for invalid
 *   configurations in the README
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
  const configs = configsOf(card, id);
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

function configsOf(card: unknown, id: string): CardConfig[] {
  const given = (card as {configs?: unknown} | null | undefined)?.configs;
  if (!Array.isArray(given)) return [];
  return given.map((config, i) => {
    const {success, data, error} = configSchema.safeParse(config);
    if (success) return data;
    const [{path, message}] = error.issues;
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `dataset ${id} README ${['configs', i, ...path].join('.')}: expected a configuration of data files, got ` +
        `${show(config)} (${message}).`,
    );
  });
}

function splitsOfCard(
  given: NonNullable<CardConfig['data_files']>,
  directory: string | undefined,
  paths: string[],
): Map<string, string[]> {
  const entries = typeof given === 'string' ? [given] : given;
  const splits = new Map<string, string[]>();
  const globs = entries.map((entry) => {
    const {split, path} = typeof entry === 'string' ? {split: 'train', path: entry} : entry;
    return {split, patterns: [path].flat().map((glob) => posix.join(directory ?? '', glob))};
  });
  assertComparable(
    globs.flatMap(({patterns}) => patterns),
    paths,
  );
  for (const {split, patterns} of globs) {
    const matchers = patterns.map(toMatcher);
    const files = paths.filter((file) => matchers.some((matches) => matches(file)));
    splits.set(split, [...(splits.get(split) ?? []), ...files]);
  }
  return splits;
}

/** Limit for comparing patterns with paths, as the product of their lengths: a few seconds. */
const MAX_COMPARED = 3e9;

function assertComparable(globs: string[], paths: string[]): void {
  const lengthOf = (texts: string[]) => texts.reduce((sum, {length}) => sum + length, 0);
  if (lengthOf(globs) * lengthOf(paths) <= MAX_COMPARED) return;
  throw new TfjsLoraError(
    'INVALID_CONFIG',
    `README data_files: expected patterns that can be compared with ${paths.length} files, got ${globs.length} such as ` +
      `${show(globs[0])}. Name the folder of the data set's files.`,
  );
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

/**
 * Compiles a pattern of file names (`*`, `**`, `?`, `[0-9]`, `{a,b}`), which matches in time linear in the path's
 * length.
 */
function toMatcher(glob: string): (path: string) => boolean {
  if (!/[*?[{]/.test(glob)) return (path) => path === glob;
  const escaped = (text: string) => text.replace(/[.+^$()|\\\][{}*?#\s-]/g, '\\$&');
  const source = glob.replace(/\*\*\/?|\*|\?|\{[^}]*\}|\[[^\]]+\]|[^*?{[]+|./g, (part) => {
    if (part === '**/') return '(?:.*/)?';
    if (part === '**') return '.*';
    if (part === '*') return '[^/]*';
    if (part === '?') return '[^/]';
    if (/^\{.*\}$/.test(part)) return `(?:${part.slice(1, -1).split(',').map(escaped).join('|')})`;
    if (/^\[.+\]$/.test(part)) return part.replace('[!', '[^').replaceAll('\\', '\\\\');
    return escaped(part);
  });
  const pattern = new PythonPattern(source, `README data_files ${show(glob)}`);
  return (path) => pattern.fullMatch(path);
}
