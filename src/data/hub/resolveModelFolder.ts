import {readFile, stat} from 'node:fs/promises';
import {dirname, join, resolve} from 'node:path';
import {z} from 'zod';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {didYouMeanPath} from '../../../quant/folders/similarPath.ts';
import {assertKnownOptions} from '../../../quant/knownOptions.ts';
import {parseJson} from '../../../quant/parseJson.ts';
import {show} from '../../../quant/show.ts';
import {fetchSnapshot, HUB_ID, type HubContents} from './fetchSnapshot.ts';
import {exists} from './hubFile.ts';
import {HUB_OPTIONS, type HubOptions} from './hubOptions.ts';
import {assertRepositoryPath} from './repositoryPath.ts';

const INDEX = 'model.safetensors.index.json';

/** Files that a model or adapter is read from: those of the top level, with weights only as safetensors. */
const WANTED = /^[^/]+\.(safetensors|json|jinja|model|txt)$/;

/**
 * Returns the local folder of a model or an adapter. A folder or a GGUF file is returned as it is; a repository on the
 * hub is fetched into the hub's cache.
 *
 * @param pathOrHubId a folder, a GGUF file, or `org/name`
 * @throws TfjsLoraError `FILE_NOT_FOUND` when it is neither, or cannot be downloaded: says which files are missing and
 *   where to put them; `UNSUPPORTED` when the repository has no safetensors
 * @example
 * ```ts
 * import {huggingFaceEnvironment, resolveModelFolder} from 'tfjs-lora/data';
 *
 * const {hub} = huggingFaceEnvironment(process.env); // HF_TOKEN, HF_ENDPOINT, HF_HOME …
 * const folder = await resolveModelFolder('meta-llama/Llama-3.2-1B-Instruct', hub);
 * ```
 */
export async function resolveModelFolder(
  pathOrHubId: string,
  given: HubOptions & {revision?: string} = {},
): Promise<string> {
  assertKnownOptions('resolveModelFolder', given, {...HUB_OPTIONS, revision: true});
  const found = await stat(pathOrHubId).catch(() => undefined);
  const isGguf = /\.gguf$/i.test(pathOrHubId);
  if (found?.isDirectory() || (found?.isFile() && isGguf)) return pathOrHubId;
  if (found?.isFile()) {
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `model ${pathOrHubId}: expected a folder, a GGUF file or a hub id (org/name), got another file. Name its folder, ` +
        `${dirname(pathOrHubId)}.`,
    );
  }
  if (!HUB_ID.test(pathOrHubId) || (isGguf && !pathOrHubId.includes('/'))) {
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `model ${pathOrHubId}: expected a folder, a GGUF file or a hub id (org/name), got no folder at ${resolve(pathOrHubId)}.${didYouMeanPath(pathOrHubId)}`,
    );
  }
  try {
    return await fetchModelFolder(pathOrHubId, given);
  } catch (cause) {
    const similar = didYouMeanPath(pathOrHubId);
    const isMissing = cause instanceof TfjsLoraError && ['FILE_NOT_FOUND', 'NETWORK'].includes(cause.code);
    if (!isMissing || similar === '') throw cause;
    throw new TfjsLoraError(cause.code, cause.message + similar, {cause});
  }
}

/** Files that messages ask for, by what they call the repository. */
const WORDS = {
  model: `config.json, model.safetensors (or its shards and ${INDEX}), tokenizer.json, tokenizer_config.json`,
  adapter: 'adapter_config.json, adapter_model.safetensors',
};

/**
 * Fetches a repository on the hub, like {@link resolveModelFolder} for an id. Its messages call the repository `noun`.
 */
export async function fetchModelFolder(
  id: string,
  {revision, ...options}: HubOptions & {revision?: string},
  noun: keyof typeof WORDS = 'model',
): Promise<string> {
  const snapshot = await fetchSnapshot(
    {
      repository: {kind: 'model', id, revision},
      select: (contents) => modelFiles(contents, id),
      needed: WORDS[noun],
      noun,
    },
    options,
  );
  await assertComplete(snapshot.folder, id);
  return snapshot.folder;
}

function modelFiles({paths}: HubContents, id: string): string[] {
  const files = paths.filter((path) => WANTED.test(path));
  if (files.some((path) => path.endsWith('.safetensors'))) return files;
  const weights = paths.filter((path) => /\.(bin|pth|pt|gguf|h5|msgpack)$/.test(path));
  if (weights.length === 0) return files; // assertComplete reports what is missing
  throw new TfjsLoraError(
    'UNSUPPORTED',
    `model ${id}: expected weights as safetensors, got ${weights.slice(0, 3).join(', ')}. ` +
      'Choose a repository with safetensors, convert it with transformers, or download a GGUF file and give its path.',
  );
}

/** Checks that a folder has a whole model, since a cache filled by the Python libraries may have only a part. */
async function assertComplete(folder: string, id: string): Promise<void> {
  const isAdapter = await exists(join(folder, 'adapter_config.json'));
  const needed = isAdapter
    ? ['adapter_model.safetensors']
    : ['config.json', ...(await weightFiles(folder)), 'tokenizer.json', 'tokenizer_config.json'];
  const missing: string[] = [];
  for (const file of needed) if (!(await exists(join(folder, file)))) missing.push(file);
  if (missing.length === 0) return;
  throw new TfjsLoraError(
    'FILE_NOT_FOUND',
    `model ${id}: expected ${missing.slice(0, 5).join(', ')} in ${folder}, got nothing there. ` +
      'Put them there, or put the whole model into a folder and pass its path.',
  );
}

const indexSchema = z.object({weight_map: z.record(z.string(), z.string())});

/** Returns the shards that a model's index names, or its single file. */
async function weightFiles(folder: string): Promise<string[]> {
  const path = join(folder, INDEX);
  const text = await readFile(path, 'utf8').catch(() => undefined);
  if (text === undefined) return ['model.safetensors'];
  try {
    const files = [...new Set(Object.values(indexSchema.parse(parseJson(text)).weight_map))];
    for (const file of files) assertRepositoryPath(file, `${path} weight_map`);
    return files;
  } catch (cause) {
    if (cause instanceof TfjsLoraError) throw cause;
    throw new TfjsLoraError(
      'CORRUPT_FILE',
      `${path}: expected {"weight_map": {tensor: file}}, got ${show(text)}. Download the model again.`,
      {cause},
    );
  }
}
