import {TfjsLoraError} from '../../quant/errors.ts';
import type {Folder} from '../../quant/folders/folder.ts';
import {type FolderSource, openFolder} from '../../quant/folders/openFolder.ts';
import {ggufParts} from '../../quant/gguf/ggufFiles.ts';
import {GgufModelFolder} from './ggufModelFolder.ts';

const WEIGHTS = /^model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?$/;

/**
 * Opens a model's folder. A GGUF file is opened as the folder that it would be in Hugging Face's format: `source` may be
 * such a file's path or URL, or a folder with one GGUF model and no safetensors.
 *
 * @param ggufFile the name of the GGUF file in the folder, if it has several
 * @throws TfjsLoraError `INVALID_ARGUMENT` for a folder with several GGUF models; and as `GgufModelFolder.open`
 */
export async function openModelFolder(source: FolderSource, ggufFile?: string): Promise<Folder> {
  if (ggufFile === undefined && isGgufPath(source)) {
    const [parent, name] = split(String(source));
    if (!(await openFolder(source).exists()) || /^https?:/.test(String(source)))
      return GgufModelFolder.open(openFolder(parent), name);
  }
  const folder = openFolder(source);
  const name = ggufFile ?? (await onlyGgufOf(folder));
  return name === undefined ? folder : GgufModelFolder.open(folder, name);
}

const isGgufPath = (source: FolderSource): source is string | URL =>
  (typeof source === 'string' || source instanceof URL) && /\.gguf$/i.test(String(source));

function split(path: string): [folder: string, name: string] {
  const at = Math.max(path.lastIndexOf('/'), path.lastIndexOf('\\')) + 1;
  return [path.slice(0, at) || '.', path.slice(at)];
}

/** Returns the first part of the one GGUF model in a folder without safetensors. */
async function onlyGgufOf(folder: Folder): Promise<string | undefined> {
  if (folder instanceof GgufModelFolder) return undefined;
  const names = (await folder.names()) ?? [];
  if (names.some((name) => WEIGHTS.test(name))) return undefined;
  const models = names.filter((name) => /\.gguf$/i.test(name) && ggufParts(name)[0] === name).sort();
  if (models.length <= 1) return models[0];
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `model folder ${folder.pathOf('')}: expected one GGUF model, got ${models.join(', ')}. Name one: its path, or the ` +
      'option ggufFile.',
  );
}
