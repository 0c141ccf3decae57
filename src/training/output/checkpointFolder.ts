import {createHash, randomUUID} from 'node:crypto';
import * as fs from 'node:fs';
import {readFile} from 'node:fs/promises';
import {basename, dirname, join, resolve} from 'node:path';
import {readJson} from '../../../models/jsonFile.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {onDisk} from '../../../quant/safetensors/diskErrors.ts';
import {removeTemporaries, syncFolder} from '../../../quant/safetensors/stagedFile.ts';
import {writeWhole} from '../../../quant/safetensors/writeWhole.ts';
import {show} from '../../../quant/show.ts';
import {warn} from '../../../quant/warn.ts';

/** File written last; lists the checkpoint's files with their checksums, and ends with its own. */
const RESUME_STATE = 'resume_state.json';
const NAME = /^checkpoint-(\d+)$/;
/** Name of a checkpoint that a run left behind when it resumed from an earlier one. */
const ABANDONED = /^abandoned-checkpoint-(\d+)(?:-\d+)?$/;
const UNFINISHED = /^\.checkpoint-\d+\.[\w-]+\.tmp$/;
const REMOVED = /^\.(?:abandoned-)?checkpoint-[\d-]+\.[\w-]+\.old$/;

export function checkpointFolder(outputDir: string, step: number): string {
  return join(outputDir, `checkpoint-${step}`);
}

/**
 * Writes `checkpoint-<step>`. Everything is written to a temporary folder and flushed to the disk, and the folder is
 * renamed last. A run that is killed leaves either the whole checkpoint or none.
 *
 * @param fill writes the files
 * @param state state that `readCheckpoint` returns, as JSON
 */
export async function writeCheckpoint(
  outputDir: string,
  step: number,
  fill: (folder: string) => Promise<void>,
  state: Record<string, unknown>,
): Promise<string> {
  const folder = checkpointFolder(outputDir, step);
  const staged = join(outputDir, `.checkpoint-${step}.${randomUUID()}.tmp`);
  fs.mkdirSync(staged, {recursive: true});
  try {
    await fill(staged);
    const files: Record<string, StoredFile> = {};
    for (const name of filesIn(staged)) {
      syncFile(join(staged, name));
      files[name] = await describeFile(join(staged, name));
    }
    writeWhole(join(staged, RESUME_STATE), withChecksum(JSON.stringify({...state, files}, null, 2)));
    if (fs.existsSync(folder)) removeCheckpoint(outputDir, step);
    fs.renameSync(staged, folder);
  } catch (error) {
    fs.rmSync(staged, {recursive: true, force: true});
    throw error instanceof TfjsLoraError && error.code === 'DISK_FULL'
      ? noRoom(error, staged, folder)
      : error;
  }
  syncFolder(outputDir);
  return folder;
}

/** Returns the error for a full disk: nothing of the new checkpoint stays, but earlier ones do. */
function noRoom({message, cause}: TfjsLoraError, staged: string, folder: string): TfjsLoraError {
  const before = checkpointSteps(dirname(folder)).at(-1);
  const safe =
    before === undefined
      ? 'No checkpoint was written before it'
      : `${checkpointFolder(dirname(folder), before)} is intact`;
  const [file] = message.replace(resolve(staged), resolve(folder)).split(': expected');
  return new TfjsLoraError(
    'DISK_FULL',
    `checkpoint ${resolve(folder)}: no space on the disk for ${file}. ` +
      `Nothing of this checkpoint was kept. ${safe}. Free some space and run again${before === undefined ? '' : ' to resume from it'}.`,
    {cause},
  );
}

/**
 * Reads the state that a checkpoint was written with.
 *
 * @throws TfjsLoraError `FILE_NOT_FOUND`, or `CORRUPT_FILE` for a damaged one
 */
export async function readCheckpoint(folder: string): Promise<Record<string, unknown>> {
  const text = await readFile(join(folder, RESUME_STATE), 'utf8').catch(() => ''); // readJson reports what is wrong
  if (!hasOwnChecksum(text))
    throw damaged(folder, RESUME_STATE, 'its contents as they were written', 'other contents');
  const {files, sha256: _, ...state} = await readJson(join(folder, RESUME_STATE));
  if (typeof files !== 'object' || files === null)
    throw damaged(folder, RESUME_STATE, 'a list of files', 'none');
  for (const [name, stored] of Object.entries(files)) {
    if (!isWithin(name)) throw damaged(folder, show(name), 'a file of the checkpoint', 'another path');
    const {bytes, sha256} = (
      typeof stored === 'number' ? {bytes: stored} : (stored ?? {})
    ) as Partial<StoredFile>;
    const got = fs.statSync(join(folder, name), {throwIfNoEntry: false})?.size;
    if (got !== bytes)
      throw damaged(folder, name, `${bytes} bytes`, got === undefined ? 'no file' : `${got}`);
    if (sha256 !== undefined && (await describeFile(join(folder, name))).sha256 !== sha256)
      throw damaged(folder, name, 'its contents as they were written', 'other contents');
  }
  return state;
}

/** Whether a name can be that of a file in the folder or below it. */
function isWithin(name: string): boolean {
  return (
    name.length < 256 &&
    !name.includes('\0') &&
    name.split('/').every((part) => !['', '.', '..'].includes(part))
  );
}

/** Record of a file in a checkpoint; checkpoints of earlier versions record only the bytes. */
interface StoredFile {
  bytes: number;
  sha256: string;
}

async function describeFile(path: string): Promise<StoredFile> {
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const piece of fs.createReadStream(path, {highWaterMark: 1 << 20})) {
    hash.update(piece as Uint8Array);
    bytes += (piece as Uint8Array).length;
  }
  return {bytes, sha256: hash.digest('hex')};
}

const checksumOf = (text: string): string => createHash('sha256').update(text).digest('hex');
const CHECKSUM = /,\n {2}"sha256": "([0-9a-f]{64})"\n\}\n$/;

/** Adds a checksum to the text of a JSON object, as its last key. */
function withChecksum(text: string): string {
  return `${text.slice(0, -2)},\n  "sha256": "${checksumOf(text)}"\n}\n`;
}

/** Whether a text is one that {@link withChecksum} made; also true without a checksum, as in earlier versions. */
function hasOwnChecksum(text: string): boolean {
  const found = CHECKSUM.exec(text);
  return found === null || checksumOf(`${text.slice(0, found.index)}\n}`) === found[1];
}

export function isWholeCheckpoint(folder: string): Promise<boolean> {
  return readCheckpoint(folder).then(
    () => true,
    () => false,
  );
}

/** Whether {@link writeCheckpoint} made a folder, whole or damaged. */
export const isCheckpoint = (folder: string): boolean => fs.existsSync(join(folder, RESUME_STATE));

function damaged(folder: string, name: string, expected: string, got: string): TfjsLoraError {
  return new TfjsLoraError(
    'CORRUPT_FILE',
    `checkpoint ${resolve(folder)} ${name}: expected ${expected}, got ${got}. ${adviceFor(folder)}`,
  );
}

/** Advises to use the previous checkpoint, if there is one. */
function adviceFor(folder: string): string {
  const step = Number(NAME.exec(basename(folder))?.[1] ?? Number.POSITIVE_INFINITY);
  const before = checkpointSteps(dirname(folder))
    .filter((other) => other < step)
    .at(-1);
  if (before === undefined) return 'There is no earlier one: start the run again.';
  return `Resume from the one before it: ${checkpointFolder(dirname(folder), before)}.`;
}

/**
 * Returns the newest whole checkpoint in a folder, by number; {@link setAsideAfter} keeps numbers in the order of
 * training. Damaged ones are skipped with a warning.
 */
export async function newestCheckpoint(outputDir: string): Promise<string | undefined> {
  for (const step of checkpointSteps(outputDir).reverse()) {
    const folder = checkpointFolder(outputDir, step);
    try {
      await readCheckpoint(folder);
      return folder;
    } catch (error) {
      warn(`checkpoint ${resolve(folder)} is damaged and was skipped: ${(error as Error).message}`);
    }
  }
  return undefined;
}

/** Lists the steps of the checkpoints in a folder, ascending. */
export function checkpointSteps(outputDir: string): number[] {
  return entriesOf(outputDir)
    .map((name) => NAME.exec(name)?.[1])
    .filter((step) => step !== undefined)
    .map(Number)
    .sort((a, b) => a - b);
}

/**
 * Renames the checkpoints after a step, so that they neither count as the newest nor outlive those that the run will
 * write.
 *
 * @returns their old and new names
 */
export function setAsideAfter(outputDir: string, step: number): [before: string, after: string][] {
  return checkpointSteps(outputDir)
    .filter((later) => later > step)
    .map((later) => {
      const before = `checkpoint-${later}`;
      let after = `abandoned-${before}`;
      for (let n = 2; fs.existsSync(join(outputDir, after)); n++) after = `abandoned-${before}-${n}`;
      fs.renameSync(join(outputDir, before), join(outputDir, after));
      return [before, after];
    });
}

/** Removes checkpoints beyond `limit`: abandoned ones, then the oldest; those of the `kept` steps and the newest stay. */
export function rotateCheckpoints(outputDir: string, limit: number, kept: readonly number[]): void {
  const steps = checkpointSteps(outputDir);
  const abandoned = abandonedNames(outputDir);
  const removable = steps.slice(0, -1).filter((step) => !kept.includes(step));
  const names = [...abandoned, ...removable.map((step) => `checkpoint-${step}`)];
  const surplus = Math.max(0, steps.length + abandoned.length - limit);
  for (const name of names.slice(0, surplus)) remove(outputDir, name);
}

export function removeAbandoned(outputDir: string): void {
  for (const name of abandonedNames(outputDir)) remove(outputDir, name);
}

/** Lists the names of abandoned checkpoints by step. */
function abandonedNames(outputDir: string): string[] {
  const stepOf = (name: string) => Number(ABANDONED.exec(name)?.[1]);
  return entriesOf(outputDir)
    .filter((name) => ABANDONED.test(name))
    .sort((a, b) => stepOf(a) - stepOf(b));
}

export function removeCheckpoint(outputDir: string, step: number): void {
  remove(outputDir, `checkpoint-${step}`);
}

/** Removes a checkpoint, and renames it first: if the run is killed meanwhile, no half checkpoint is left. */
function remove(outputDir: string, name: string): void {
  const doomed = join(outputDir, `.${name}.${randomUUID()}.old`);
  fs.renameSync(join(outputDir, name), doomed);
  fs.rmSync(doomed, {recursive: true, force: true});
}

/** Removes what a run that was killed while saving left behind, with a warning that names it. */
export function removeUnfinished(outputDir: string): void {
  for (const name of entriesOf(outputDir)) {
    const path = join(outputDir, name);
    if (UNFINISHED.test(name)) {
      warn(`checkpoint ${resolve(path)} is incomplete and was skipped: the run ended while it was written`);
    } else if (!REMOVED.test(name)) continue;
    fs.rmSync(path, {recursive: true, force: true});
  }
  removeTemporaries(outputDir);
}

function entriesOf(folder: string): string[] {
  return fs.existsSync(folder) && fs.statSync(folder).isDirectory() ? fs.readdirSync(folder) : [];
}

/** Lists the paths of all files in a folder, relative to it. */
function filesIn(folder: string): string[] {
  const names = fs
    .readdirSync(folder, {withFileTypes: true})
    .flatMap((entry) =>
      entry.isDirectory()
        ? filesIn(join(folder, entry.name)).map((name) => `${entry.name}/${name}`)
        : [entry.name],
    );
  return names.sort();
}

function syncFile(path: string): void {
  const descriptor = fs.openSync(path, 'r+');
  try {
    onDisk(path, '', () => fs.fsyncSync(descriptor));
  } finally {
    fs.closeSync(descriptor);
  }
}
