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

/** Written by a run that came to its end, and removed when another begins or this one goes on. */
const FINISHED = 'train_results.json';

const STATE = 'trainer_state.json';
/** The numbers of all other results, of a run and of its model. */
const ALL_RESULTS = 'all_results.json';

/** What a run writes beside checkpoints and weights. */
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
/** What evaluations and comparisons write of the model that a run left. */
const RESULTS =
  /^((eval|predict)_results\.json|generated_predictions\.jsonl|comparison(-\d+|\.(md|json|svg|png)))$/;
const WEIGHT_FILES = ['adapter_config.json', 'config.json', 'trained_weights.safetensors'];

/** What is to become of an earlier run in the folder. */
export interface OutputWishes {
  overwrite?: boolean;
  /** `false`, beside `overwrite`: an unfinished run is to go too. Undefined: nothing was said. */
  resume?: boolean | string;
}

/** The caller's own words for its settings, for errors. */
export interface OutputWords {
  /** The setting that names the folder. */
  what: string;
  /** How to make the run that is there go on, where it can, and how to start over in its place. */
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
 * Checks, changing nothing, that a run may write to a folder: it is one or can be made, it can be written, no other run
 * holds it, and an earlier run in it is to go on, is finished and to be overwritten, or has saved nothing.
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
 * Makes a folder, holds it, and removes what a run that was killed left half written.
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
    await assertEarlierRun(outputDir, wishes, words); // again: now that nobody else changes it
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

/** What a run finds in its folder and removes when it begins. */
export interface EarlierFiles {
  what: 'an unfinished run' | 'a finished run' | 'results of another model';
  /** Checkpoints, and results of the model; else what shows that a run was there. */
  names: string[];
}

/** What one that begins in the folder removes, if anything. */
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
 * A run that begins removes what an earlier one wrote, and the results of another model, with a warning that names them.
 * Earlier weights stay until new ones replace them.
 */
export function clearOutputFolder(outputDir: string): void {
  const earlier = earlierFiles(outputDir);
  if (earlier) warn(`${resolve(outputDir)}: training removes ${earlier.what}: ${earlier.names.join(', ')}`);
  for (const step of checkpointSteps(outputDir)) removeCheckpoint(outputDir, step);
  removeAbandoned(outputDir);
  removeAll(outputDir, [...RUN_FILES, ...resultsIn(outputDir)]);
}

/** A run that goes on is unfinished again, and what was found of the model it had left is removed with a warning. */
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
 * Whether the run in a folder came to its end, and going on from a checkpoint to so many steps would train none. False where
 * there is no checkpoint, or the number of steps is not known.
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
  return max_steps === totalSteps || global_step >= totalSteps; // equal, but fewer done: it was stopped early
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

/** The newest checkpoint, else what a run leaves at its end; undefined where one was stopped before it saved anything. */
function latestTrace(outputDir: string): string | undefined {
  const step = checkpointSteps(outputDir).at(-1);
  if (step !== undefined) return `checkpoint-${step}`;
  return [...WEIGHT_FILES, FINISHED].find((name) => fs.existsSync(join(outputDir, name)));
}
