import {existsSync, readdirSync} from 'node:fs';
import {basename, dirname, join} from 'node:path';
import {similarName} from '../errors.ts';

/**
 * Returns advice for a path that does not exist: ` Did you mean models/llama?`, if some path on disk is like it; otherwise
 * nothing.
 */
export function didYouMeanPath(path: string): string {
  try {
    const similar = path && !existsSync(path) && similarPath(path);
    return similar ? ` Did you mean ${similar}?` : '';
  } catch {
    return ''; // a folder that cannot be listed, or no disk
  }
}

/** Finds the most similar path, part by part from the last one that exists. */
function similarPath(path: string): string | undefined {
  if (existsSync(path)) return path;
  const parent = similarPath(dirname(path));
  const similar = parent && similarName(basename(path), readdirSync(parent));
  return similar && join(parent, similar);
}
