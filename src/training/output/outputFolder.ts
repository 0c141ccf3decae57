import * as fs from 'node:fs';
import {dirname, join, resolve} from 'node:path';
import {readJson} from '../../../models/jsonFile.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import {warn} from '../../../quant/warn.ts';
import {
  checkpointFolder,
  checkpointSteps,
  newestCheckpoint,
  removeAbandoned,
  removeCheckpoint,
  removeUnfinished,
} from './checkpointFolder.ts';
import {FolderLock} from './folderLock.ts';
import {SCORED_MODEL_FILE} from './resultFiles.ts';

/** File that a finished run writes, and that is removed when another one begins or this one resumes. */
const FINISHED = 'train_results.json';

const STATE = 'trainer_state.json';
/** Metrics of all other results, of a run and of its model. */
const ALL_RESULTS = 'all_results.json';

/** Files that a run writes beside checkpoints and weights. */
const RUN_FILES = [
  'trainer_log.jsonl',
  'trainer_log.csv',
  STATE,
  FINISHED,
  ALL_RESULTS,
  SCORED_MODEL_FILE,
  'training_loss.png',
  'training_loss.svg',
  'training_eval_loss.png',
  'training_eval_loss.svg',
  'runs',
];
/** Files that evaluations and comparisons write about a run's model. */
const RESULTS =
  /^((eval|predict)_results\.json|generated_predictions\.jsonl|comparison(-\d+|\.(md|json|svg|png)))$/;
const WEIGHT_FILES = ['adapter_config.json', 'config.json', 'trained_weights.safetensors'];

/** Settings for an earlier run in the folder. */
export interface OutputWishes {
  overwrite?: boolean;
  /** `false`, together with `overwrite`, removes an unfinished run too. Undefined: not set. */
  resume?: boolean | string;
}

/** The caller's words for its settings, for errors. */
export interface OutputWords {
  /** Name of the setting that names the folder. */
  what: string;
  /** Advice on how to resume the earlier run, if possible, and how to start over. */
  advice(run: {canGoOn: boolean; isUnfinished: boolean}): string;
}

export const FIT_WORDS: OutputWords = {
  what: 'fitDataset outputDir',
  advice({canGoOn, isUnfinished}) {
    const goOn = canGoOn ? 'resumeFromCheckpoint: true to resume, ' : '';
    const startOver = `overwriteOutputDir: true${isUnfinished ? ' and resumeFromCheckpoint: false' : ''} to start over`;
    return ` Pass ${goOn}${startOver}, or another folder.`;
  },
};

/**
 * Checks that a run may write to a folder, and changes nothing: it is a folder or can be made, it is writable, no other
 * run holds it, and an earlier run in it is to be resumed, is finished and to be overwritten, or has saved nothing.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT`
 */
export async function assertOutputFolder(
  outputDir: string,
  wishes: OutputWishes,
  words: OutputWords,
): Promise<void> {
  assertWritable(outputDir, words);
  FolderLock.assertFree(outputDir, `${words.what} ${resolve(outputDir)}`);
  await assertEarlierRun(outputDir, wishes, words);
}

/**
 * Makes a folder, locks it, and removes what a killed run left incomplete.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` as {@link assertOutputFolder}
 */
export async function holdOutputFolder(
  outputDir: string,
  wishes: OutputWishes,
  words: OutputWords,
): Promise<FolderLock> {
  await assertOutputFolder(outputDir, wishes, words);
  const lock = take(outputDir, words);
  try {
    await assertEarlierRun(outputDir, wishes, words); // again, now that nobody else changes it
    removeUnfinished(outputDir);
    return lock;
  } catch (error) {
    lock.release();
    throw error;
  }
}

function take(outputDir: string, words: OutputWords): FolderLock {
  try {
    fs.mkdirSync(outputDir, {recursive: true});
    return FolderLock.take(outputDir, `${words.what} ${resolve(outputDir)}`);
  } catch (error) {
    throw error instanceof TfjsLoraError ? error : unwritable(outputDir, words, error);
  }
}

/** Files that a new run finds in its folder and removes. */
export interface EarlierFiles {
  what: 'an unfinished run' | 'a finished run' | 'results of another model';
  /** Checkpoints and results of the model, or else a file that shows that a run was there. */
  names: string[];
}

/** Returns what a new run in the folder removes, if anything. */
export function earlierFiles(outputDir: string): EarlierFiles | undefined {
  if (!fs.existsSync(outputDir)) return undefined;
  const results = resultsIn(outputDir);
  const trace = latestTrace(outputDir);
  if (trace === undefined) {
    return results.length > 0 ? {what: 'results of another model', names: results} : undefined;
  }
  const names = [...checkpointSteps(outputDir).map((step) => `checkpoint-${step}`), ...results];
  return {
    what: holdsUnfinished(outputDir) ? 'an unfinished run' : 'a finished run',
    names: names.length > 0 ? names : [trace],
  };
}

/**
 * Removes the files of an earlier run and results of another model when a run begins, with a warning that names them.
 * Earlier weights stay until new ones replace them.
 */
export function clearOutputFolder(outputDir: string): void {
  const earlier = earlierFiles(outputDir);
  if (earlier) warn(`${resolve(outputDir)}: training removes ${earlier.what}: ${earlier.names.join(', ')}`);
  for (const step of checkpointSteps(outputDir)) removeCheckpoint(outputDir, step);
  removeAbandoned(outputDir);
  removeAll(outputDir, [...RUN_FILES, ...resultsIn(outputDir)]);
}

/** Marks a resumed run as unfinished, and removes results of its earlier model with a warning. */
export function markUnfinished(outputDir: string): void {
  if (fs.existsSync(join(outputDir, FINISHED))) {
    const results = resultsIn(outputDir);
    if (results.length > 0) {
      warn(
        `${resolve(outputDir)}: training resumes, so the results of the earlier model are removed (${results.join(', ')})`,
      );
    }
    removeAll(outputDir, [...results, ALL_RESULTS]);
  }
  removeAll(outputDir, [FINISHED]);
}

/**
 * Whether the run in a folder is finished, so that resuming it for this number of steps would train none. False without
 * a checkpoint, or when the number of steps is unknown.
 */
export async function isFinishedRun(
  outputDir: string,
  checkpoint: string | undefined,
  totalSteps: number | undefined,
): Promise<boolean> {
  if (checkpoint === undefined || totalSteps === undefined) return false;
  const has = (name: string) => fs.existsSync(join(outputDir, name));
  const newest = checkpointFolder(outputDir, checkpointSteps(outputDir).at(-1) ?? 0);
  if (resolve(checkpoint) !== resolve(newest)) return false;
  if (!has(FINISHED) || !has(STATE) || !WEIGHT_FILES.some(has)) return false;
  const {global_step, max_steps} = (await readJson(join(outputDir, STATE))) as Record<string, number>;
  return max_steps === totalSteps || global_step >= totalSteps; // equal but fewer done: it was stopped early
}

const resultsIn = (outputDir: string): string[] =>
  fs
    .readdirSync(outputDir)
    .filter((name) => RESULTS.test(name))
    .sort();

function removeAll(outputDir: string, names: readonly string[]): void {
  for (const name of names) fs.rmSync(join(outputDir, name), {recursive: true, force: true});
}

const holdsUnfinished = (outputDir: string): boolean =>
  checkpointSteps(outputDir).length > 0 && !fs.existsSync(join(outputDir, FINISHED));

function assertWritable(outputDir: string, words: OutputWords): void {
  let existing = resolve(outputDir);
  while (!fs.existsSync(existing) && dirname(existing) !== existing) existing = dirname(existing);
  if (!fs.statSync(existing).isDirectory()) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${words.what} ${resolve(outputDir)}: expected a folder, got a file, ${existing}. Choose another path.`,
    );
  }
  try {
    fs.accessSync(existing, fs.constants.W_OK | fs.constants.X_OK);
  } catch (error) {
    throw unwritable(outputDir, words, error);
  }
}

function unwritable(outputDir: string, {what}: OutputWords, cause: unknown): TfjsLoraError {
  return new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${what} ${resolve(outputDir)}: expected a writable folder, got: ${(cause as Error).message}. ` +
      'Choose another folder, or change its permissions.',
    {cause},
  );
}

async function assertEarlierRun(
  outputDir: string,
  {overwrite = false, resume}: OutputWishes,
  {what, advice}: OutputWords,
): Promise<void> {
  const isToGoOn = resume !== undefined && resume !== false;
  const isUnfinished = holdsUnfinished(outputDir);
  const isToGo = overwrite && (!isUnfinished || resume === false);
  const found = latestTrace(outputDir);
  if (isToGoOn || isToGo || found === undefined) return;
  const canGoOn = (await newestCheckpoint(outputDir)) !== undefined;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${what} ${resolve(outputDir)}: expected no ${isUnfinished ? 'unfinished' : 'earlier'} run in it, got ${found}.` +
      advice({canGoOn, isUnfinished}),
  );
}

/**
 * Returns the newest checkpoint, or else a file of a finished run; undefined if a run was stopped before it saved
 * anything.
 */
function latestTrace(outputDir: string): string | undefined {
  const step = checkpointSteps(outputDir).at(-1);
  if (step !== undefined) return `checkpoint-${step}`;
  return [...WEIGHT_FILES, FINISHED].find((name) => fs.existsSync(join(outputDir, name)));
}
