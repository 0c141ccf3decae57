import {createWriteStream} from 'node:fs';
import {copyFile, lstat, mkdir, rename, rm, stat, symlink} from 'node:fs/promises';
import {dirname, join, relative} from 'node:path';
import {Readable} from 'node:stream';
import {pipeline} from 'node:stream/promises';
import type {ReadableStream} from 'node:stream/web';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {show} from '../../../quant/show.ts';
import {type HubAddress, hubRequest, reasonOf} from './hubRequest.ts';
import type {HubFile} from './listRepository.ts';
import {assertRepositoryPath} from './repositoryPath.ts';
import {IdleSignal, type RetryOptions, retry, TransientError} from './retry.ts';
import {hashOf, isInside, isSound, noteSound} from './soundFile.ts';
import {randomName, UnfinishedFile} from './unfinishedFile.ts';

/** Where a file goes, and where it comes from. */
export interface FileTarget {
  /** The repository's folder in the cache. */
  storage: string;
  commit: string;
  url: string;
  address: HubAddress;
  attempts: RetryOptions;
}

/** Bytes after which a download counts as going on, however often it breaks off. */
const PROGRESS = 1 << 20;

/**
 * Refuses a file whose path or hash, as the hub lists them, could lead out of the cache.
 *
 * @throws TfjsLoraError `CORRUPT_FILE`
 */
export function assertSafeFile({path, sha256, gitHash}: HubFile, where: string): void {
  assertRepositoryPath(path, `${where} listing`);
  const [hash, digits] = sha256 === undefined ? [gitHash, 40] : [sha256, 64];
  if (hash === undefined || new RegExp(`^[0-9a-f]{${digits}}$`).test(hash)) return;
  throw new TfjsLoraError(
    'CORRUPT_FILE',
    `${where} listing ${path}: expected a hash of ${digits} hexadecimal digits, got ${show(hash)}.`,
  );
}

/**
 * Fetches a file into the cache, as the Python libraries lay it out: `blobs/<hash>`, and a link to it under
 * `snapshots/<commit>`. A download that broke off goes on where it ended; several at once do not disturb each other.
 *
 * @param file as {@link assertSafeFile} lets through
 * @throws TfjsLoraError `NETWORK` when it cannot be downloaded; `FILE_NOT_FOUND` when the hub refuses it; `CORRUPT_FILE` when
 *   the contents have another hash than announced
 */
export async function storeFile(
  file: HubFile,
  target: FileTarget,
  onProgress: (done: number) => void,
): Promise<void> {
  const {storage, commit} = target;
  const blobs = join(storage, 'blobs');
  await mkdir(blobs, {recursive: true});
  const hash = file.sha256 ?? file.gitHash;
  const blob = hash === undefined ? await fetchNameless(file, blobs, target, onProgress) : join(blobs, hash);
  if (!(await isSound(blob, file, storage))) await fetchBlob(file, blob, target, onProgress);
  await link(blob, file.path, join(storage, 'snapshots', commit));
}

/** Downloads contents without an announced hash, named by the hash they have. */
async function fetchNameless(
  file: HubFile,
  blobs: string,
  target: FileTarget,
  onProgress: (done: number) => void,
): Promise<string> {
  const unnamed = join(blobs, randomName());
  await fetchBlob(file, unnamed, target, onProgress);
  const blob = join(blobs, await hashOf(unnamed, {}, file.size));
  await rename(unnamed, blob);
  return blob;
}

async function fetchBlob(
  file: HubFile,
  blob: string,
  target: FileTarget,
  onProgress: (done: number) => void,
): Promise<void> {
  const unfinished = await UnfinishedFile.for(blob);
  try {
    await download(file, unfinished.path, target, onProgress);
    let fault = await faultOf(file, unfinished.path);
    if (fault && unfinished.isContinued) {
      // What the earlier download left was not its beginning.
      await rm(unfinished.path, {force: true});
      await download(file, unfinished.path, target, onProgress);
      fault = await faultOf(file, unfinished.path);
    }
    if (fault) {
      await unfinished.remove();
      throw new TfjsLoraError('CORRUPT_FILE', `${target.url}: ${fault}. Download it again.`);
    }
    await unfinished.finish(blob); // in the place of a damaged one, if there is one
    await noteSound(blob, file, target.storage);
  } finally {
    unfinished.leave();
  }
}

/** What is wrong with the file as it lies on the disk. */
async function faultOf(file: HubFile, path: string): Promise<string | undefined> {
  const expected = file.sha256 ?? file.gitHash;
  const {size} = await stat(path);
  const got = expected === undefined ? undefined : await hashOf(path, file, size);
  if (size === file.size && got === expected) return undefined;
  return `expected ${file.size} bytes with hash ${expected}, got ${size} with ${got}`;
}

async function download(
  file: HubFile,
  unfinished: string,
  target: FileTarget,
  onProgress: (done: number) => void,
): Promise<void> {
  await retry(`${target.url} cannot be downloaded`, target.attempts, async () => {
    const there = (await stat(unfinished).catch(() => undefined))?.size ?? 0;
    if (there > 0 && there === file.size) return;
    if (there > file.size) await discard(unfinished);
    const idle = new IdleSignal(target.attempts);
    try {
      const begun = there > file.size ? 0 : there;
      const {body, start} = await request(target, unfinished, begun, idle.signal);
      await append(body, {file, unfinished, start, idle, url: target.url}, onProgress);
    } finally {
      idle.stop();
    }
  });
}

/** Asks for a file from a byte on; it may come from its start nevertheless. */
async function request(
  {url, address}: FileTarget,
  unfinished: string,
  begun: number,
  signal: AbortSignal,
): Promise<{body: Readable; start: number}> {
  const response = await hubRequest(url, address, {
    headers: begun > 0 ? {range: `bytes=${begun}-`} : {},
    signal,
  });
  if (!response.ok) {
    await response.body?.cancel();
    throw refusal(url, response, begun > 0 && (await discard(unfinished)));
  }
  const start = response.status === 206 ? startOf(response) : 0; // 200: the server sends the whole
  if (start !== 0 && start !== begun) {
    await response.body?.cancel();
    await discard(unfinished);
    throw new TransientError(`the server sent another part, from byte ${start}`);
  }
  const body = response.body ? Readable.fromWeb(response.body as ReadableStream) : Readable.from([]);
  return {body, start};
}

/** Failures of the disk, which no other attempt mends. */
const DISK_ERROR = /^E(NOSPC|ACCES|PERM|ROFS|IO|DQUOT|NOENT|ISDIR|MFILE)$/;

async function append(
  body: Readable,
  {
    file,
    unfinished,
    start,
    idle,
    url,
  }: {file: HubFile; unfinished: string; start: number; idle: IdleSignal; url: string},
  onProgress: (done: number) => void,
): Promise<void> {
  const {size} = file;
  let done = start;
  let broken: {error: unknown} | undefined;
  /** What arrives, until the connection breaks: that much is written, and is not asked for again. */
  async function* arriving(): AsyncGenerator<Buffer> {
    const pieces = body[Symbol.asyncIterator]();
    for (;;) {
      let next: IteratorResult<Buffer>;
      try {
        next = await pieces.next();
      } catch (error) {
        broken = {error};
        return;
      }
      if (next.done) return;
      idle.refresh();
      done += next.value.length;
      if (done > size) throw new TfjsLoraError('CORRUPT_FILE', `${url}: expected ${size} bytes, got more.`);
      onProgress(done);
      yield next.value;
    }
  }
  const hasProgressed = () => done - start > PROGRESS;
  try {
    await pipeline(arriving, createWriteStream(unfinished, {flags: start > 0 ? 'a' : 'w'}));
  } catch (error) {
    if (error instanceof TfjsLoraError || DISK_ERROR.test((error as NodeJS.ErrnoException).code ?? ''))
      throw error;
    broken ??= {error};
  } finally {
    body.destroy();
  }
  if (done === size) return; // its hash is checked; how the connection ended does not matter
  const reason = broken && reasonOf(idle.signal.aborted ? idle.signal.reason : broken.error);
  const what = reason
    ? `the connection ended after ${done} of ${size} bytes: ${reason}`
    : `the file ended after ${done} of ${size} bytes`;
  throw new TransientError(what, 0, hasProgressed());
}

async function discard(path: string): Promise<boolean> {
  await rm(path, {force: true});
  return true;
}

/** @param wasPart the rest of a file was asked for, and what there was of it is given up */
function refusal(url: string, {status}: Response, wasPart: boolean): Error {
  if (status === 416 && wasPart) return new TransientError('the server has no such part');
  return new TfjsLoraError(
    status >= 500 ? 'NETWORK' : 'FILE_NOT_FOUND',
    `${url}: expected the file, got status ${status}`,
  );
}

function startOf(response: Response): number {
  return Number(/^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '')?.[1] ?? Number.NaN);
}

/** Puts a link to a blob in its place in a snapshot: under another name first, so that it is there or not there. */
async function link(blob: string, path: string, snapshot: string): Promise<void> {
  const folder = await makeFolder(snapshot, path.split('/').slice(0, -1));
  const pointer = join(snapshot, path);
  const made = join(folder, `.${randomName()}.incomplete`);
  try {
    await symlink(relative(folder, blob), made);
  } catch {
    await copyFile(blob, made); // where links are not allowed
  }
  await rename(made, pointer);
}

/** The folder of a file in a snapshot. Each step down must be a folder itself: a link could lead out of the cache. */
async function makeFolder(snapshot: string, names: string[]): Promise<string> {
  await mkdir(snapshot, {recursive: true});
  let folder = snapshot;
  for (const name of names) {
    folder = join(folder, name);
    await mkdir(folder).catch(() => {});
    if (!(await lstat(folder)).isDirectory()) {
      throw new TfjsLoraError(
        'CORRUPT_FILE',
        `${folder}: expected a folder of the cache, got a file or a link. Remove it.`,
      );
    }
  }
  return folder;
}

/** Whether a snapshot has a file with the announced contents, which lies in the cache. */
export async function isStored(path: string, file: Partial<HubFile>, storage: string): Promise<boolean> {
  const places = [dirname(storage), join(storage, 'blobs')]; // the latter may have been moved to another disk
  for (const place of places) if (await isInside(path, place)) return isSound(path, file, storage);
  return false;
}

export async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
