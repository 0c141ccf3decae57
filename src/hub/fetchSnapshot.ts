import {mkdir, readdir, readFile, rename, stat, writeFile} from 'node:fs/promises';
import {dirname, join, relative, sep} from 'node:path';
import {datasetInfo, listFiles, modelInfo} from '@huggingface/hub';
import {TfjsLoraError} from '../../quant/errors.ts';
import {warn} from '../../quant/warn.ts';
import {exists, type HubFile, storeFile} from './hubFile.ts';
import {cacheFolder, DEFAULT_ENDPOINT, type HubOptions} from './hubOptions.ts';

export interface HubRepository {
  kind: 'model' | 'dataset';
  /** `org/name` */
  id: string;
  /** A branch, tag or commit. Default `main`. */
  revision?: string;
}

/** What a repository holds. */
export interface HubContents {
  paths: string[];
  /** The front matter of its README, as the hub's own interface gives it. */
  card?: unknown;
}

export interface Snapshot {
  folder: string;
  /** The selected files, by their paths in the repository. */
  files: string[];
}

interface SnapshotRequest {
  repository: HubRepository;
  /** Which files are needed. */
  select: (contents: HubContents) => string[];
  /** The files by name, for the message when nothing can be fetched. */
  needed: string;
}

/** Where the contents of a snapshot are noted beside it: offline, its folder alone does not show what it lacks. */
const NOTES = '.tfjs-lora';

const COMMIT = /^[0-9a-f]{40}$/;

/**
 * The selected files of a repository in the hub's cache, where the Python libraries have them too; those not there
 * yet are fetched. Without a network, the cache alone serves, with a warning.
 *
 * @throws TfjsLoraError `FILE_NOT_FOUND` saying which files are missing and where to put them, or why the hub refused;
 *   `CORRUPT_FILE` when what came is not what the hub announced
 */
export async function fetchSnapshot(request: SnapshotRequest, options: HubOptions): Promise<Snapshot> {
  if (options.offline) return cachedSnapshot(request, options, 'offline');
  const {repository, select} = request;
  let contents: HubContents & {commit: string; files: Map<string, HubFile>};
  try {
    contents = await listContents(repository, options);
  } catch (error) {
    if (error instanceof TfjsLoraError) throw error;
    const reason = `${options.endpoint ?? DEFAULT_ENDPOINT} cannot be reached: ${reasonOf(error)}`;
    const snapshot = await cachedSnapshot(request, options, reason, error);
    warn(`${repository.kind} ${repository.id}: ${reason}. Using the cached ${snapshot.folder}.`);
    return snapshot;
  }
  const {commit, files, paths, card} = contents;
  const storage = storageFolder(repository, options);
  const folder = join(storage, 'snapshots', commit);
  const selected = select({paths, card});
  const missing: HubFile[] = [];
  for (const path of selected)
    if (!(await exists(join(folder, path)))) missing.push(files.get(path) as HubFile);
  const total = missing.reduce((sum, {size}) => sum + size, 0);
  let before = 0;
  for (const file of missing) {
    const target = {
      storage,
      commit,
      url: fileUrl(repository, commit, file.path, options),
      fetch: authorized(options),
    };
    await storeFile(file, target, (done) =>
      options.onProgress?.({repository: repository.id, file: file.path, done: before + done, total}),
    );
    before += file.size;
  }
  const {revision = 'main'} = repository;
  if (!COMMIT.test(revision)) await writeWhole(join(storage, 'refs', revision), commit);
  await writeWhole(join(storage, NOTES, `${commit}.json`), JSON.stringify({paths, card}));
  return {folder, files: selected};
}

async function listContents(
  repository: HubRepository,
  options: HubOptions,
): Promise<HubContents & {commit: string; files: Map<string, HubFile>}> {
  const {kind, id, revision = 'main'} = repository;
  const access = {hubUrl: options.endpoint, fetch: authorized(options)};
  const about = {name: id, revision, ...access};
  try {
    const {sha, cardData} =
      kind === 'model'
        ? await modelInfo({...about, additionalFields: ['sha', 'cardData']})
        : await datasetInfo({...about, additionalFields: ['sha', 'cardData']});
    const files = new Map<string, HubFile>();
    const tree = listFiles({repo: {type: kind, name: id}, revision: sha, recursive: true, ...access});
    for await (const {type, path, size, oid, lfs} of tree) {
      if (type === 'file') files.set(path, {path, size: lfs?.size ?? size, sha256: lfs?.oid, gitHash: oid});
    }
    return {commit: sha, files, paths: [...files.keys()], card: cardData};
  } catch (cause) {
    const {statusCode} = cause as {statusCode?: number};
    if (statusCode === undefined || statusCode >= 500) throw cause;
    throw new TfjsLoraError(
      'FILE_NOT_FOUND',
      `${kind} ${id}${revision === 'main' ? '' : ` at ${revision}`}: expected a repository of ` +
        `${options.endpoint ?? DEFAULT_ENDPOINT}, got ${statusCode}: ${(cause as Error).message}. ` +
        'Check the name; for a gated or private one, accept its terms there and set HF_TOKEN.',
      {cause},
    );
  }
}

async function cachedSnapshot(
  {repository, select, needed}: SnapshotRequest,
  options: HubOptions,
  reason: string,
  cause?: unknown,
): Promise<Snapshot> {
  const {kind, id, revision = 'main'} = repository;
  const storage = storageFolder(repository, options);
  const named = await readFile(join(storage, 'refs', revision), 'utf8').catch(() => undefined);
  const commit = COMMIT.test(revision) ? revision : named?.trim();
  const folder = join(storage, 'snapshots', commit ?? '');
  const present = commit === undefined ? [] : await filesBelow(folder);
  const missingFiles = (files: string, place: string) =>
    new TfjsLoraError(
      'FILE_NOT_FOUND',
      `${kind} ${id}: expected ${files} in ${place}, got nothing there (${reason}). ` +
        `Fetch the ${kind} where there is a network (\`hf download ${id}${kind === 'dataset' ? ' --repo-type dataset' : ''}\`) ` +
        `and copy ${storage} here; or put the files into a folder and give its path.`,
      {cause},
    );
  if (present.length === 0)
    throw missingFiles(needed, commit === undefined ? join(storage, 'snapshots', '<commit>') : folder);
  const note = await readFile(join(storage, NOTES, `${commit}.json`), 'utf8').catch(() => undefined);
  const contents = note === undefined ? {paths: present} : (JSON.parse(note) as HubContents);
  const files = select(contents);
  const missing = files.filter((path) => !present.includes(path));
  if (missing.length > 0) throw missingFiles(missing.join(', '), folder);
  return {folder, files};
}

/** Paths of all files below a folder, with `/`; links whose file is gone are left out. */
async function filesBelow(folder: string): Promise<string[]> {
  const entries = await readdir(folder, {recursive: true, withFileTypes: true}).catch(() => []);
  const found: string[] = [];
  for (const entry of entries) {
    const path = join(entry.parentPath, entry.name);
    if ((await stat(path).catch(() => undefined))?.isFile())
      found.push(relative(folder, path).split(sep).join('/'));
  }
  return found.sort();
}

function storageFolder({kind, id}: HubRepository, options: HubOptions): string {
  return join(cacheFolder(options), [`${kind}s`, ...id.split('/')].join('--'));
}

function fileUrl({kind, id}: HubRepository, commit: string, path: string, options: HubOptions): string {
  const prefix = kind === 'model' ? '' : `${kind}s/`;
  const encoded = path.split('/').map(encodeURIComponent).join('/');
  return `${options.endpoint ?? DEFAULT_ENDPOINT}/${prefix}${id}/resolve/${commit}/${encoded}`;
}

/** `fetch` with the token: mirrors' tokens need not look like the hub's, which its client insists on. */
function authorized({token}: HubOptions): typeof fetch {
  if (token === undefined) return fetch;
  return (input, init) => {
    const headers = new Headers(init?.headers);
    headers.set('Authorization', `Bearer ${token}`);
    return fetch(input, {...init, headers});
  };
}

/** Node's fetch says "fetch failed", and why in the cause. */
function reasonOf(error: unknown): string {
  const {message, cause} = error as Error & {cause?: {message?: string; code?: string}};
  return cause?.message || cause?.code || message;
}

/** Writes a small file so that readers see the old one or the new one. */
async function writeWhole(path: string, text: string): Promise<void> {
  await mkdir(dirname(path), {recursive: true});
  const unfinished = `${path}.${Math.random().toString(36).slice(2)}.incomplete`;
  await writeFile(unfinished, text);
  await rename(unfinished, path);
}
