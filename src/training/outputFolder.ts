import * as fs from 'node:fs';
import {dirname, join, resolve} from 'node:path';
import {TfjsLoraError} from '../../quant/errors.ts';
import {warn} from '../../quant/warn.ts';
import {
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

/** What a run writes beside checkpoints and weights. */
const RUN_FILES = [
  'trainer_log.jsonl',
  'trainer_log.csv',
  'trainer_state.json',
  FINISHED,
  'eval_results.json',
  'predict_results.json',
  'generated_predictions.jsonl',
  'all_results.json',
  SCORED_MODEL_FILE,
  'training_loss.png',
  'training_loss.svg',
  'training_eval_loss.png',
  'training_eval_loss.svg',
  'runs',
];
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
    const goOn = canGoOn ? 'resumeFromCheckpoint: true to go on, ' : '';
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

/** A run that begins removes what an earlier one wrote, but for its weights, which stay until new ones replace them. */
export function clearOutputFolder(outputDir: string): void {
  const steps = checkpointSteps(outputDir);
  if (holdsUnfinished(outputDir)) {
    const names = steps.map((step) => `checkpoint-${step}`).join(', ');
    warn(`${resolve(outputDir)}: an unfinished run is removed (${names})`);
  }
  for (const step of steps) removeCheckpoint(outputDir, step);
  removeAbandoned(outputDir);
  for (const name of RUN_FILES) fs.rmSync(join(outputDir, name), {recursive: true, force: true});
}

/** A run that goes on is unfinished again. */
export function markUnfinished(outputDir: string): void {
  fs.rmSync(join(outputDir, FINISHED), {force: true});
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
    `${what} ${resolve(outputDir)}: expected a folder that can be written, got: ${(cause as Error).message}. ` +
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
