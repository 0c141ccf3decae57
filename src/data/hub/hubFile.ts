import {createWriteStream} from 'node:fs';
import {copyFile, lstat, mkdir, rename, rm, stat, symlink} from 'node:fs/promises';
import {dirname, join, relative} from 'node:path';
import {Readable} from 'node:stream';
import {pipeline} from 'node:stream/promises';
import type {ReadableStream} from 'node:stream/web';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {makeFolder} from '../../../quant/safetensors/makeFolder.ts';
import {show} from '../../../quant/show.ts';
import {type HubAddress, hubRequest, reasonOf} from './hubRequest.ts';
import type {HubFile} from './listRepository.ts';
import {assertRepositoryPath} from './repositoryPath.ts';
import {IdleSignal, type RetryOptions, retry, TransientError} from './retry.ts';
import {hashOf, isInside, isSound, noteSound} from './soundFile.ts';
import {randomName, UnfinishedFile} from './unfinishedFile.ts';

/** Source and destination of a file. */
export interface FileTarget {
  /** The repository's folder in the cache. */
  storage: string;
  commit: string;
  url: string;
  address: HubAddress;
  attempts: RetryOptions;
}

/** Bytes after which a download counts as progressing, however often it breaks off. */
const PROGRESS = 1 << 20;

/**
 * Refuses a file whose path or hash, as listed by the hub, could lead out of the cache.
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
 * Fetches a file into the cache, laid out as the Python libraries do: `blobs/<hash>`, and a link to it under
 * `snapshots/<commit>`. An interrupted download resumes where it ended; concurrent downloads do not disturb each other.
 *
 * @param file one that {@link assertSafeFile} accepts
 * @throws TfjsLoraError `NETWORK` when it cannot be downloaded; `FILE_NOT_FOUND` when the hub refuses it;
 *   `CORRUPT_FILE` when the contents have another hash than announced
 */
export async function storeFile(
  file: HubFile,
  target: FileTarget,
  onProgress: (done: number) => void,
): Promise<void> {
  const {storage, commit} = target;
  const blobs = join(storage, 'blobs');
  makeFolder(blobs);
  const hash = file.sha256 ?? file.gitHash;
  const blob = hash === undefined ? await fetchNameless(file, blobs, target, onProgress) : join(blobs, hash);
  if (!(await isSound(blob, file, storage))) await fetchBlob(file, blob, target, onProgress);
  await link(blob, file.path, join(storage, 'snapshots', commit));
}

/** Downloads contents without an announced hash, and names them by their own. */
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
      // The earlier download's part was not the beginning of this file.
      await rm(unfinished.path, {force: true});
      await download(file, unfinished.path, target, onProgress);
      fault = await faultOf(file, unfinished.path);
    }
    if (fault) {
      await unfinished.remove();
      throw new TfjsLoraError('CORRUPT_FILE', `${target.url}: ${fault}. Download it again.`);
    }
    await unfinished.finish(blob); // replaces a damaged one, if any
    await noteSound(blob, file, target.storage);
  } finally {
    unfinished.leave();
  }
}

/** Returns what is wrong with the file on the disk, or undefined. */
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

/** Requests a file from a byte on; the server may still send it from its start. */
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
  const start = response.status === 206 ? startOf(response) : 0; // 200: the server sends the whole file
  if (start !== 0 && start !== begun) {
    await response.body?.cancel();
    await discard(unfinished);
    throw new TransientError(`the server sent another part, from byte ${start}`);
  }
  const body = response.body ? Readable.fromWeb(response.body as ReadableStream) : Readable.from([]);
  return {body, start};
}

/** Disk errors, which another attempt would not fix. */
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
  /** Yields what arrives until the connection breaks; that part is written and not requested again. */
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
  if (done === size) return; // the hash is checked, so it does not matter how the connection ended
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

/**
 * Returns the error for a refused request.
 *
 * @param wasPart whether only the rest of a file was requested; the part on the disk is then dropped
 */
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

/** Links to a blob from a snapshot, first under another name, so that the link exists either whole or not at all. */
async function link(blob: string, path: string, snapshot: string): Promise<void> {
  const folder = await makeFolderIn(snapshot, path.split('/').slice(0, -1));
  const pointer = join(snapshot, path);
  const made = join(folder, `.${randomName()}.incomplete`);
  try {
    await symlink(relative(folder, blob), made);
  } catch {
    await copyFile(blob, made); // where links are not allowed
  }
  await rename(made, pointer);
}

/** Creates the folder of a file in a snapshot. Each step must be a real folder: a link could lead out of the cache. */
async function makeFolderIn(snapshot: string, names: string[]): Promise<string> {
  makeFolder(snapshot);
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

/** Whether a snapshot has a file with the announced contents, and the file is inside the cache. */
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
