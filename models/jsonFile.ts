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
    `${folder.pathOf(name)}: expected a readable file, got none of that name.${await didYouMean(folder, name)}`,
  );
}

/** For the configuration that is missing from a folder of the other kind, the file that is there and advice. */
const OTHER_KIND: Readonly<Record<string, {has: string; advice(text: string): string; kind: string}>> = {
  'config.json': {
    has: 'adapter_config.json',
    kind: "a model in Hugging Face's format, or a GGUF file",
    advice: (text) =>
      ` This is the folder of an adapter: open its base model${baseOf(text)}, and add the adapter with ` +
      'loadAdapter(folder), or adapter_name_or_path in a recipe or command.',
  },
  'adapter_config.json': {
    has: 'config.json',
    kind: 'an adapter, as saveAdapter or PEFT writes it',
    advice: () => ' This is the folder of a model, which fromPretrained opens.',
  },
};

/** Returns the model that an adapter's config names, for a message. */
function baseOf(text: string): string {
  const [, base] = /"base_model_name_or_path"\s*:\s*("(?:[^"\\]|\\.)+")/.exec(text) ?? [];
  return base === undefined ? '' : ` ${base}`;
}

/** Returns advice for a folder that does not exist, or is of the other kind. */
async function didYouMean(folder: Folder, name: string): Promise<string> {
  const other = Object.hasOwn(OTHER_KIND, name) ? OTHER_KIND[name] : undefined;
  const kind = other ? ` Pass the folder of ${other.kind}.` : '';
  if (folder instanceof DiskFolder && !(await folder.exists())) {
    const isFile = await new DiskFolder(dirname(folder.path)).has(basename(folder.path));
    return isFile ? ` Pass the folder, ${dirname(folder.path)}.` : kind + didYouMeanPath(folder.path);
  }
  const text = other && (await readText(folder, other.has));
  return text === undefined ? kind : (other?.advice(text) ?? '');
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
