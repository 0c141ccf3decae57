import {basename, dirname} from 'node:path';
import {TfjsLoraError} from '../quant/errors.ts';
import {DiskFolder} from '../quant/folders/diskFolder.ts';
import {type Folder, readText} from '../quant/folders/folder.ts';
import {didYouMeanPath} from '../quant/folders/similarPath.ts';
import {parseJson} from '../quant/parseJson.ts';
import {show} from '../quant/show.ts';

/**
 * Reads a JSON object from a file on disk.
 *
 * @throws TfjsLoraError `FILE_NOT_FOUND`, or `CORRUPT_FILE` when it is not a JSON object
 */
export function readJson(path: string): Promise<Record<string, unknown>> {
  return readJsonOf(new DiskFolder(dirname(path)), basename(path));
}

/** Does what {@link readJson} does, for a file in any kind of folder. */
export async function readJsonOf(folder: Folder, name: string): Promise<Record<string, unknown>> {
  const json = await readJsonIfPresent(folder, name);
  if (json) return json;
  throw new TfjsLoraError(
    'FILE_NOT_FOUND',
    `${folder.pathOf(name)}: expected a readable file, got none of that name.${await didYouMean(folder)}`,
  );
}

/** Returns advice for a folder that does not exist. */
async function didYouMean(folder: Folder): Promise<string> {
  return folder instanceof DiskFolder && !(await folder.exists()) ? didYouMeanPath(folder.path) : '';
}

/** Does what {@link readJsonOf} does, but returns undefined when there is no such file. */
export async function readJsonIfPresent(
  folder: Folder,
  name: string,
): Promise<Record<string, unknown> | undefined> {
  const text = await readText(folder, name);
  if (text === undefined) return undefined;
  const where = folder.pathOf(name);
  let json: unknown;
  try {
    json = parseJson(text);
  } catch (cause) {
    throw new TfjsLoraError('CORRUPT_FILE', `${where}: expected JSON, got: ${(cause as Error).message}`, {
      cause,
    });
  }
  if (typeof json === 'object' && json !== null && !Array.isArray(json))
    return json as Record<string, unknown>;
  throw new TfjsLoraError(
    'CORRUPT_FILE',
    `${where}: expected a JSON object, got ${Array.isArray(json) ? 'a list' : show(json)}`,
  );
}
