import {fileURLToPath} from 'node:url';
import {TfjsLoraError} from '../errors.ts';
import {DiskFolder} from './diskFolder.ts';
import {expandHome} from './expandHome.ts';
import type {Folder, WritableFolder} from './folder.ts';
import {MemoryFolder} from './memoryFolder.ts';
import {UrlFolder} from './urlFolder.ts';

/**
 * A source of files: a path on disk, also as `file://…`; a URL, also as a string that begins with `http://` or
 * `https://`; the files themselves, as a browser's `<input type="file">` gives them or in a map by name; or your own
 * {@link Folder}.
 */
export type FolderSource = string | URL | Iterable<File> | ReadonlyMap<string, Blob> | Folder;

/** A target for files: a path on disk, a map that receives them by name, or a `WritableFolder`. */
export type FolderTarget = string | Map<string, Blob> | WritableFolder;

/** Opens a source of files. @throws TfjsLoraError `INVALID_ARGUMENT` when `source` is not one */
export function openFolder(source: FolderSource): Folder {
  if (typeof source === 'string' && !hasOtherScheme(source))
    return isUrl(source) ? new UrlFolder(source) : new DiskFolder(pathOf(source));
  if (source instanceof URL)
    return source.protocol === 'file:' ? new DiskFolder(fileURLToPath(source)) : new UrlFolder(source);
  if (source instanceof Map) return new MemoryFolder(source);
  if (isFolder(source, 'read')) return source as Folder;
  if (typeof source === 'object' && source !== null && Symbol.iterator in source) {
    const files = [...(source as Iterable<File>)];
    if (files.every((file) => file instanceof Blob && typeof file.name === 'string')) {
      return new MemoryFolder(new Map(files.map((file) => [file.name, file])));
    }
  }
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `folder: expected a path, a URL, a list of Files or a Map of Blobs by name, got ${describe(source)}`,
  );
}

/** Opens a target for files. @throws TfjsLoraError `INVALID_ARGUMENT` when `target` is not one */
export function folderToWrite(target: FolderTarget): WritableFolder {
  if (typeof target === 'string' && !isUrl(target) && !hasOtherScheme(target))
    return new DiskFolder(pathOf(target));
  if (target instanceof Map) return new MemoryFolder(target);
  if (isFolder(target, 'write')) return target as WritableFolder;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `folder to write: expected a path, or a Map that takes Blobs by name, got ${describe(target)}`,
  );
}

/** Returns the path behind `file://`, which TensorFlow.js puts before one, with `~/` expanded. */
const pathOf = (text: string): string => expandHome(text.replace(/^file:\/\//, ''));

/** Whether a text is a place that is no folder, such as TensorFlow.js's `indexeddb://`. */
const hasOtherScheme = (text: string): boolean => /^(?!https?:|file:)[a-z][a-z0-9+-]+:\/\//i.test(text);

const isUrl = (text: string): boolean => /^https?:\/\//.test(text);

const isFolder = (given: unknown, method: keyof WritableFolder): boolean =>
  typeof given === 'object' && given !== null && method in given && 'pathOf' in given;

function describe(value: unknown): string {
  return typeof value === 'string'
    ? value
    : value === null
      ? 'null'
      : ((value as object)?.constructor?.name ?? typeof value);
}
