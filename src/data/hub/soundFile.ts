import {createHash} from 'node:crypto';
import {createReadStream} from 'node:fs';
import {readFile, realpath, stat, writeFile} from 'node:fs/promises';
import {dirname, join, relative, sep} from 'node:path';
import {makeFolder} from '../../../quant/safetensors/makeFolder.ts';
import type {HubFile} from './listRepository.ts';

/** Notes in a repository's folder in the cache: files whose hash was right, with their times then. */
const VERIFIED = join('.tfjs-lora', 'verified');

/**
 * Whether a file of the cache has the contents that the hub announced. The file is hashed at its first use and after
 * each change. In a read-only cache, only the sizes are compared.
 *
 * @param storage the repository's folder in the cache
 */
export async function isSound(path: string, file: Partial<HubFile>, storage: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  if (!found?.isFile() || (file.size !== undefined && found.size !== file.size)) return false;
  const expected = expectedHash(file);
  if (expected === undefined) return true;
  const {note, state} = await noteOf(path, expected, storage);
  if ((await readFile(note, 'utf8').catch(() => '')) === state) return true;
  try {
    makeFolder(dirname(note));
  } catch {
    return true; // what cannot be noted would be read each time
  }
  if ((await hashOf(path, file, found.size)) !== expected) return false;
  await writeFile(note, state).catch(() => {});
  return true;
}

/** Notes that a file's hash has just been found to be as announced. */
export async function noteSound(path: string, file: HubFile, storage: string): Promise<void> {
  const expected = expectedHash(file);
  if (expected === undefined) return;
  const {note, state} = await noteOf(path, expected, storage);
  makeFolder(dirname(note));
  await writeFile(note, state);
}

const expectedHash = ({sha256, gitHash}: Partial<HubFile>) => sha256 ?? gitHash;

async function noteOf(
  path: string,
  expected: string,
  storage: string,
): Promise<{note: string; state: string}> {
  const {size, mtimeMs} = await stat(path);
  const name = relative(await realpath(storage), await realpath(path));
  const key = createHash('sha256').update(`${expected} ${name}`).digest('hex');
  return {note: join(storage, VERIFIED, key), state: `${size} ${mtimeMs}`};
}

/** Hashes a file's contents: SHA-256, or git's hash when only that is announced. */
export async function hashOf(
  path: string,
  {sha256, gitHash}: Partial<HubFile>,
  size: number,
): Promise<string> {
  const isGits = sha256 === undefined && gitHash !== undefined;
  const hash = isGits ? createHash('sha1').update(`blob ${size}\0`) : createHash('sha256');
  for await (const piece of createReadStream(path, {highWaterMark: 1 << 20})) hash.update(piece as Buffer);
  return hash.digest('hex');
}

/** Whether a file is really inside a folder once links are followed. */
export async function isInside(path: string, folder: string): Promise<boolean> {
  const [file, root] = await Promise.all([path, folder].map((each) => realpath(each).catch(() => undefined)));
  return file !== undefined && root !== undefined && file.startsWith(root + sep);
}
