import {readdir, readFile, realpath, rename, stat, writeFile} from 'node:fs/promises';
import {basename, dirname, join, relative, sep} from 'node:path';
import {z} from 'zod';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {parseJson} from '../../../quant/parseJson.ts';
import {makeFolder} from '../../../quant/safetensors/makeFolder.ts';
import {show} from '../../../quant/show.ts';
import {warn} from '../../../quant/warn.ts';
import {assertSafeFile, exists, isStored, storeFile} from './hubFile.ts';
import {cacheFolder, type HubOptions} from './hubOptions.ts';
import {hubAddress} from './hubRequest.ts';
import {COMMIT, type HubFile, type HubRepository, listRepository} from './listRepository.ts';
import {isRepositoryPath} from './repositoryPath.ts';
import type {RetryOptions} from './retry.ts';
import {randomName} from './unfinishedFile.ts';

/** Contents of a repository. */
export interface HubContents {
  paths: string[];
  /** Front matter of its README, as the hub returns it. */
  card?: unknown;
}

export interface Snapshot {
  folder: string;
  /** Paths of the selected files in the repository. */
  files: string[];
}

interface SnapshotRequest {
  repository: HubRepository;
  /** Selects the files that are needed. */
  select: (contents: HubContents) => string[];
  /** Names of the files, for the message when nothing can be fetched. */
  needed: string;
  /** What that message calls the repository. Default: its kind. */
  noun?: string;
}

/** Folder of notes on snapshots' contents. Offline, a snapshot's folder alone does not show which files it lacks. */
const NOTES = '.tfjs-lora';

/** Noted contents, with the hashes that reveal a damaged file offline too. */
interface Notes extends HubContents {
  files?: HubFile[];
}

const notesSchema = z.object({
  paths: z.array(z.string()),
  card: z.unknown().optional(),
  files: z
    .array(
      z.object({
        path: z.string(),
        size: z.number(),
        sha256: z.string().optional(),
        gitHash: z.string().optional(),
      }),
    )
    .optional(),
});

/** Id of a repository on the hub: `org/name`, or a bare name for the oldest ones. */
export const HUB_ID = /^[\w-][\w.-]*(\/[\w-][\w.-]*)?$/;

/** Consecutive failures before a request is given up. */
const ATTEMPTS = 5;

/**
 * Returns the selected files of a repository in the hub's cache, which the Python libraries share. Missing files are
 * fetched, and damaged ones fetched again. Without a network, only the cache is used, with a warning.
 *
 * @throws TfjsLoraError `FILE_NOT_FOUND` saying which files are missing and where to put them, or why the hub refused;
 *   `NETWORK` when the hub cannot be reached and the cache lacks them; `CORRUPT_FILE` when the contents are not what
 *   the hub announced, or what it announces would lead out of the cache; the signal's reason when it is aborted
 */
export async function fetchSnapshot(request: SnapshotRequest, options: HubOptions): Promise<Snapshot> {
  const {repository, select} = request;
  assertRepository(repository);
  if (options.offline) return cachedSnapshot(request, options, 'offline');
  const storage = storageFolder(repository, options);
  const {signal, retryDelay: delay = 500, idleTimeout = 30_000} = options;
  const attempts: RetryOptions = {attempts: ATTEMPTS, delay, idleTimeout, signal};
  const {endpoint} = hubAddress(options);
  const isCached = (await commitOf(repository, storage)) !== undefined;
  let listing: Awaited<ReturnType<typeof listRepository>>;
  try {
    listing = await listRepository(repository, options, isCached ? {...attempts, attempts: 1} : attempts);
  } catch (error) {
    if (!(error instanceof TfjsLoraError) || error.code !== 'NETWORK') throw error;
    const snapshot = await cachedSnapshot(request, options, error.message, error);
    warn(`${repository.kind} ${repository.id}: ${error.message}. Using the cached ${snapshot.folder}.`);
    return snapshot;
  }
  const {commit, files, card} = listing;
  const paths = [...files.keys()];
  const folder = join(storage, 'snapshots', commit);
  const selected = select({paths, card});
  const wanted = selected.map((path) => files.get(path) as HubFile);
  assertSafeFiles(wanted, repository);
  const missing: HubFile[] = [];
  for (const file of wanted)
    if (!(await isStored(join(folder, file.path), file, storage))) missing.push(file);
  const total = missing.reduce((sum, {size}) => sum + size, 0);
  let before = 0;
  for (const file of missing) {
    const url = fileUrl(endpoint, repository, commit, file.path);
    await storeFile(file, {storage, commit, url, address: hubAddress(options), attempts}, (done) =>
      options.onProgress?.({repository: repository.id, file: file.path, done: before + done, total}),
    );
    before += file.size;
  }
  const {revision = 'main'} = repository;
  if (!COMMIT.test(revision)) await writeWhole(join(storage, 'refs', revision), commit);
  const notes: Notes = {paths, card, files: wanted};
  await writeWhole(join(storage, NOTES, `${commit}.json`), JSON.stringify(notes));
  return {folder, files: selected};
}

function assertRepository({kind, id, revision = 'main'}: HubRepository): void {
  if (typeof id !== 'string' || !HUB_ID.test(id)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${kind}: expected a name on the hub such as org/name, got ${show(id)}.`,
    );
  }
  if (!isRepositoryPath(revision)) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${kind} ${id} revision: expected a branch, tag or commit, got ${show(revision)}.`,
    );
  }
}

function assertSafeFiles(files: readonly HubFile[], {kind, id}: HubRepository): void {
  const names = new Set(files.map(({path}) => path));
  for (const file of files) {
    assertSafeFile(file, `${kind} ${id}`);
    for (let at = file.path.indexOf('/'); at >= 0; at = file.path.indexOf('/', at + 1)) {
      const folder = file.path.slice(0, at);
      if (!names.has(folder)) continue;
      throw new TfjsLoraError(
        'CORRUPT_FILE',
        `${kind} ${id} listing: expected files, got ${show(folder)} as a folder too.`,
      );
    }
  }
}

async function cachedSnapshot(
  {repository, select, needed, noun = repository.kind}: SnapshotRequest,
  options: HubOptions,
  reason: string,
  cause?: unknown,
): Promise<Snapshot> {
  const {kind, id} = repository;
  const storage = storageFolder(repository, options);
  const commit = await commitOf(repository, storage);
  const folder = join(storage, 'snapshots', commit ?? '');
  const present = commit === undefined ? [] : await filesBelow(folder);
  const missingFiles = (files: string, place: string, got = 'nothing there') =>
    new TfjsLoraError(
      cause === undefined ? 'FILE_NOT_FOUND' : 'NETWORK',
      `${noun} ${id}: expected ${files} in ${place}, got ${got} (${reason}). ` +
        `Download the ${noun} on a machine with a network (\`${kind === 'dataset' ? `hf download ${id} --repo-type dataset` : `npx tfjs-lora download ${id}`}\`) ` +
        `and copy ${storage} here; or put the files into a folder and pass its path.`,
      {cause},
    );
  if (present.length === 0)
    throw missingFiles(needed, commit === undefined ? join(storage, 'snapshots', '<commit>') : folder);
  const notes = (await readNotes(join(storage, NOTES, `${commit}.json`))) ?? {paths: present};
  const files = select(notes);
  const missing = files.filter((path) => !present.includes(path));
  if (missing.length > 0) throw missingFiles(missing.join(', '), folder);
  for (const path of files) {
    const file = notes.files?.find((each) => each.path === path) ?? (await namedByHash(join(folder, path)));
    if (!(await isStored(join(folder, path), file, storage)))
      throw missingFiles(path, folder, 'damaged contents');
  }
  return {folder, files};
}

/** Returns the commit that the cache has for a revision. */
async function commitOf({revision = 'main'}: HubRepository, storage: string): Promise<string | undefined> {
  if (COMMIT.test(revision))
    return (await exists(join(storage, 'snapshots', revision))) ? revision : undefined;
  const noted = (await readFile(join(storage, 'refs', revision), 'utf8').catch(() => '')).trim();
  return COMMIT.test(noted) ? noted : undefined;
}

/** Reads noted contents; undefined when there are none or when they have been altered. */
async function readNotes(path: string): Promise<Notes | undefined> {
  const text = await readFile(path, 'utf8').catch(() => undefined);
  if (text === undefined) return undefined;
  try {
    return notesSchema.parse(parseJson(text)) as Notes;
  } catch {
    return undefined;
  }
}

/** Returns the hash in a blob's name, to which a link of the cache leads: large files are named by their SHA-256. */
async function namedByHash(path: string): Promise<Partial<HubFile>> {
  const name = basename(await realpath(path));
  return /^[0-9a-f]{64}$/.test(name) ? {sha256: name} : {};
}

/** Lists the paths of all files below a folder, with `/`; skips links whose file is gone. */
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

function fileUrl(endpoint: string, {kind, id}: HubRepository, commit: string, path: string): string {
  const prefix = kind === 'model' ? '' : `${kind}s/`;
  const encoded = path.split('/').map(encodeURIComponent).join('/');
  return `${endpoint}/${prefix}${id}/resolve/${commit}/${encoded}`;
}

/** Writes a small file so that readers see either the old or the new one; leaves a file that has the text already. */
async function writeWhole(path: string, text: string): Promise<void> {
  if ((await readFile(path, 'utf8').catch(() => undefined)) === text) return;
  makeFolder(dirname(path));
  const unfinished = `${path}.${randomName()}.incomplete`;
  await writeFile(unfinished, text);
  await rename(unfinished, path);
}
