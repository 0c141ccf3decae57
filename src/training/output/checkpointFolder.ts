import {readJsonOf} from '../../../models/jsonFile.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {RunFolder, StoredFile} from '../../../quant/folders/runFolder.ts';
import {NoRoomError} from '../../../quant/safetensors/diskErrors.ts';
import {show} from '../../../quant/show.ts';
import {warn} from '../../../quant/warn.ts';

/** File written last; lists the checkpoint's files with their checksums, and ends with its own. */
const RESUME_STATE = 'resume_state.json';
const NAME = /^checkpoint-(\d+)$/;
/** Name of a checkpoint that a run left behind when it resumed from an earlier one. */
const ABANDONED = /^abandoned-checkpoint-(\d+)(?:-\d+)?$/;
const UNFINISHED = /^\.checkpoint-\d+\.[\w-]+\.tmp$/;
const REMOVED = /^\.(?:abandoned-)?checkpoint-[\d-]+\.[\w-]+\.old$/;

export const checkpointFolder = (outputDir: RunFolder, step: number): RunFolder =>
  outputDir.subfolder(`checkpoint-${step}`);

/**
 * Writes `checkpoint-<step>`. Everything is written to a temporary folder and flushed to the disk, and the folder is
 * renamed last. A run that is killed leaves either the whole checkpoint or none.
 *
 * @param fill writes the files
 * @param state state that `readCheckpoint` returns, as JSON
 */
export async function writeCheckpoint(
  outputDir: RunFolder,
  step: number,
  fill: (folder: RunFolder) => Promise<void>,
  state: Record<string, unknown>,
): Promise<RunFolder> {
  const folder = checkpointFolder(outputDir, step);
  const staged = outputDir.subfolder(`.checkpoint-${step}.${crypto.randomUUID()}.tmp`);
  await staged.create();
  try {
    await fill(staged);
    const files: Record<string, StoredFile> = {};
    await staged.flush();
    for (const name of await staged.files()) files[name] = (await staged.describe(name))!;
    await staged.write(RESUME_STATE, await withChecksum(JSON.stringify({...state, files}, null, 2)));
    if (await outputDir.has(folder.name)) await removeCheckpoint(outputDir, step);
    await outputDir.rename(staged.name, folder.name);
  } catch (error) {
    await outputDir.remove(staged.name);
    throw error instanceof NoRoomError ? await noRoom(error, staged, folder) : error;
  }
  return folder;
}

/** Returns the error for a full disk: nothing of the new checkpoint stays, but earlier ones do. */
async function noRoom(
  {file, room, cause}: NoRoomError,
  staged: RunFolder,
  folder: RunFolder,
): Promise<TfjsLoraError> {
  const before = (await checkpointSteps(folder.parent)).at(-1);
  const safe =
    before === undefined
      ? 'No checkpoint was written before it'
      : `${checkpointFolder(folder.parent, before).path} is intact`;
  return new TfjsLoraError(
    'DISK_FULL',
    `checkpoint ${folder.fullPath}: expected room for ${file.slice(staged.fullPath.length + 1)} ${room}. ` +
      `Nothing of this checkpoint was kept. ${safe}. Free some space and run again${before === undefined ? '' : ' to resume from it'}.`,
    {cause},
  );
}

/**
 * Reads the state that a checkpoint was written with.
 *
 * @throws TfjsLoraError `FILE_NOT_FOUND`, or `CORRUPT_FILE` for a damaged one
 */
export async function readCheckpoint(folder: RunFolder): Promise<Record<string, unknown>> {
  const text = new TextDecoder().decode(await folder.read(RESUME_STATE).catch(() => undefined));
  if (!(await hasOwnChecksum(text)))
    throw await damaged(folder, RESUME_STATE, 'its contents as they were written', 'other contents');
  const {files, sha256: _, ...state} = await readJsonOf(folder, RESUME_STATE); // reports what is wrong
  if (typeof files !== 'object' || files === null)
    throw await damaged(folder, RESUME_STATE, 'a list of files', 'none');
  for (const [name, stored] of Object.entries(files)) {
    if (!isWithin(name)) throw await damaged(folder, show(name), 'a file of the checkpoint', 'another path');
    const {bytes, sha256} = (
      typeof stored === 'number' ? {bytes: stored} : (stored ?? {})
    ) as Partial<StoredFile>;
    const got = await folder.describe(name);
    if (got?.bytes !== bytes)
      throw await damaged(folder, name, `${bytes} bytes`, got === undefined ? 'no file' : `${got.bytes}`);
    if (sha256 !== undefined && got?.sha256 !== sha256)
      throw await damaged(folder, name, 'its contents as they were written', 'other contents');
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

async function checksumOf(text: string): Promise<string> {
  const hash = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text));
  return [...new Uint8Array(hash)].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

const CHECKSUM = /,\n {2}"sha256": "([0-9a-f]{64})"\n\}\n$/;

/** Adds a checksum to the text of a JSON object, as its last key. */
async function withChecksum(text: string): Promise<string> {
  return `${text.slice(0, -2)},\n  "sha256": "${await checksumOf(text)}"\n}\n`;
}

/** Whether a text is one that {@link withChecksum} made; also true without a checksum, as in earlier versions. */
async function hasOwnChecksum(text: string): Promise<boolean> {
  const found = CHECKSUM.exec(text);
  return found === null || (await checksumOf(`${text.slice(0, found.index)}\n}`)) === found[1];
}

export function isWholeCheckpoint(folder: RunFolder): Promise<boolean> {
  return readCheckpoint(folder).then(
    () => true,
    () => false,
  );
}

/** Whether {@link writeCheckpoint} made a folder, whole or damaged. */
export const isCheckpoint = (folder: RunFolder): Promise<boolean> => folder.has(RESUME_STATE);

async function damaged(
  folder: RunFolder,
  name: string,
  expected: string,
  got: string,
): Promise<TfjsLoraError> {
  return new TfjsLoraError(
    'CORRUPT_FILE',
    `checkpoint ${folder.fullPath} ${name}: expected ${expected}, got ${got}. ${await adviceFor(folder)}`,
  );
}

/** Advises to use the previous checkpoint, if there is one. */
async function adviceFor({name, parent}: RunFolder): Promise<string> {
  const step = Number(NAME.exec(name)?.[1] ?? Number.POSITIVE_INFINITY);
  const before = (await checkpointSteps(parent)).filter((other) => other < step).at(-1);
  if (before === undefined) return 'There is no earlier one: start the run again.';
  return `Resume from the one before it: ${checkpointFolder(parent, before).path}.`;
}

/**
 * Returns the newest whole checkpoint in a folder, by number; {@link setAsideAfter} keeps numbers in the order of
 * training. Damaged ones are skipped with a warning.
 */
export async function newestCheckpoint(outputDir: RunFolder): Promise<RunFolder | undefined> {
  for (const step of (await checkpointSteps(outputDir)).reverse()) {
    const folder = checkpointFolder(outputDir, step);
    try {
      await readCheckpoint(folder);
      return folder;
    } catch (error) {
      warn(`checkpoint ${folder.fullPath} is damaged and was skipped: ${(error as Error).message}`);
    }
  }
  return undefined;
}

/** Lists the steps of the checkpoints in a folder, ascending. */
export async function checkpointSteps(outputDir: RunFolder): Promise<number[]> {
  return (await outputDir.names())
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
export async function setAsideAfter(
  outputDir: RunFolder,
  step: number,
): Promise<[before: string, after: string][]> {
  const moved: [string, string][] = [];
  for (const later of await checkpointSteps(outputDir)) {
    if (later <= step) continue;
    const before = `checkpoint-${later}`;
    let after = `abandoned-${before}`;
    for (let n = 2; await outputDir.has(after); n++) after = `abandoned-${before}-${n}`;
    await outputDir.rename(before, after);
    moved.push([before, after]);
  }
  return moved;
}

/** Removes checkpoints beyond `limit`: abandoned ones, then the oldest; those of the `kept` steps and the newest stay. */
export async function rotateCheckpoints(
  outputDir: RunFolder,
  limit: number,
  kept: readonly number[],
): Promise<void> {
  const steps = await checkpointSteps(outputDir);
  const abandoned = await abandonedNames(outputDir);
  const removable = steps.slice(0, -1).filter((step) => !kept.includes(step));
  const names = [...abandoned, ...removable.map((step) => `checkpoint-${step}`)];
  const surplus = Math.max(0, steps.length + abandoned.length - limit);
  for (const name of names.slice(0, surplus)) await remove(outputDir, name);
}

export async function removeAbandoned(outputDir: RunFolder): Promise<void> {
  for (const name of await abandonedNames(outputDir)) await remove(outputDir, name);
}

/** Lists the names of abandoned checkpoints by step. */
async function abandonedNames(outputDir: RunFolder): Promise<string[]> {
  const stepOf = (name: string) => Number(ABANDONED.exec(name)?.[1]);
  return (await outputDir.names())
    .filter((name) => ABANDONED.test(name))
    .sort((a, b) => stepOf(a) - stepOf(b));
}

export const removeCheckpoint = (outputDir: RunFolder, step: number): Promise<void> =>
  remove(outputDir, `checkpoint-${step}`);

/** Removes a checkpoint, and renames it first: if the run is killed meanwhile, no half checkpoint is left. */
async function remove(outputDir: RunFolder, name: string): Promise<void> {
  const doomed = `.${name}.${crypto.randomUUID()}.old`;
  await outputDir.rename(name, doomed);
  await outputDir.remove(doomed);
}

/** Removes what a run that was killed while saving left behind, with a warning that names it. */
export async function removeUnfinished(outputDir: RunFolder): Promise<void> {
  for (const name of await outputDir.names()) {
    if (UNFINISHED.test(name)) {
      warn(
        `checkpoint ${outputDir.pathOf(name)} is incomplete and was skipped: the run ended while it was written`,
      );
    } else if (!REMOVED.test(name)) continue;
    await outputDir.remove(name);
  }
  await outputDir.removeTemporaries();
}
