import {createHash, type Hash} from 'node:crypto';
import {createReadStream, createWriteStream} from 'node:fs';
import {copyFile, mkdir, rename, rm, stat, symlink} from 'node:fs/promises';
import {dirname, join, relative} from 'node:path';
import {Readable, Transform} from 'node:stream';
import {pipeline} from 'node:stream/promises';
import type {ReadableStream} from 'node:stream/web';
import {TfjsLoraError} from '../../quant/errors.ts';

/** A file as the hub lists it. */
export interface HubFile {
  path: string;
  size: number;
  /** Of large files. */
  sha256?: string;
  /** Of the others: git's name for the contents. */
  gitHash?: string;
}

interface Target {
  /** The repository's folder in the cache. */
  storage: string;
  commit: string;
  url: string;
  fetch: typeof fetch;
}

const ATTEMPTS = 3;

/**
 * Fetches a file into the cache, as the Python libraries lay it out: `blobs/<hash>`, and a link to it under
 * `snapshots/<commit>`. A download that broke off goes on where it ended.
 *
 * @throws TfjsLoraError `CORRUPT_FILE` when the contents have another hash than announced
 */
export async function storeFile(
  file: HubFile,
  target: Target,
  onProgress: (done: number) => void,
): Promise<void> {
  const blob = join(target.storage, 'blobs', file.sha256 ?? file.gitHash ?? file.path);
  const pointer = join(target.storage, 'snapshots', target.commit, file.path);
  await mkdir(dirname(blob), {recursive: true});
  await mkdir(dirname(pointer), {recursive: true});
  if (!(await exists(blob))) {
    const unfinished = `${blob}.incomplete`;
    for (let attempt = 1; ; attempt++) {
      try {
        await download(file, target, unfinished, onProgress);
        break;
      } catch (error) {
        if (error instanceof TfjsLoraError || attempt === ATTEMPTS) throw error;
      }
    }
    await rename(unfinished, blob);
  }
  await rm(pointer, {force: true});
  try {
    await symlink(relative(dirname(pointer), blob), pointer);
  } catch {
    await copyFile(blob, pointer); // where links are not allowed
  }
}

async function download(
  file: HubFile,
  {url, fetch}: Target,
  unfinished: string,
  onProgress: (done: number) => void,
): Promise<void> {
  const hash = file.sha256 ? createHash('sha256') : createHash('sha1').update(`blob ${file.size}\0`); // git's name for contents
  let done = await hashSoFar(unfinished, file.size, hash);
  if (done < file.size || file.size === 0) {
    const response = await fetch(url, done > 0 ? {headers: {Range: `bytes=${done}-`}} : {});
    if (!response.ok) {
      await response.body?.cancel();
      throw new TfjsLoraError('FILE_NOT_FOUND', `${url}: expected the file, got status ${response.status}`);
    }
    if (done > 0 && response.status !== 206) {
      await response.body?.cancel();
      await rm(unfinished); // a server that sends the whole: begin anew
      throw new Error(`${url}: expected the rest of the file, got status ${response.status}`);
    }
    const watch = new Transform({
      transform(piece: Buffer, _, next) {
        hash.update(piece);
        done += piece.length;
        onProgress(done);
        next(null, piece);
      },
    });
    const body = Readable.fromWeb(response.body as ReadableStream);
    await pipeline(body, watch, createWriteStream(unfinished, {flags: 'a'}));
  }
  const expected = file.sha256 ?? file.gitHash;
  const got = hash.digest('hex');
  if (done === file.size && (expected === undefined || got === expected)) return;
  if (done < file.size) throw new Error(`${url}: expected ${file.size} bytes, got ${done}`);
  await rm(unfinished);
  throw new TfjsLoraError(
    'CORRUPT_FILE',
    `${url}: expected ${file.size} bytes with hash ${expected}, got ${done} with ${got}. Fetch it again.`,
  );
}

/** Adds to a hash what is there of a file already; returns its bytes. */
async function hashSoFar(path: string, size: number, hash: Hash): Promise<number> {
  const there = (await stat(path).catch(() => undefined))?.size ?? 0;
  if (there > size) await rm(path);
  if (there === 0 || there > size) return 0;
  for await (const piece of createReadStream(path)) hash.update(piece as Buffer);
  return there;
}

export async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
