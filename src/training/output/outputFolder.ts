import {readJsonOf} from '../../../models/jsonFile.ts';
import {TfjsLoraError} from '../../../quant/errors.ts';
import type {RunFolder, RunLock} from '../../../quant/folders/runFolder.ts';
import {warn} from '../../../quant/warn.ts';
import {
  checkpointFolder,
  checkpointSteps,
  newestCheckpoint,
  removeAbandoned,
  removeCheckpoint,
  removeUnfinished,
} from './checkpointFolder.ts';
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
  resume?: boolean | string | RunFolder;
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
  outputDir: RunFolder,
  wishes: OutputWishes,
  words: OutputWords,
): Promise<void> {
  await outputDir.assertUsable(words.what);
  await assertEarlierRun(outputDir, wishes, words);
}

/**
 * Makes a folder, locks it, and removes what a killed run left incomplete.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` as {@link assertOutputFolder}
 */
export async function holdOutputFolder(
  outputDir: RunFolder,
  wishes: OutputWishes,
  words: OutputWords,
): Promise<RunLock> {
  await assertOutputFolder(outputDir, wishes, words);
  const lock = await outputDir.lock(words.what);
  try {
    await assertEarlierRun(outputDir, wishes, words); // again, now that nobody else changes it
    await removeUnfinished(outputDir);
    return lock;
  } catch (error) {
    lock.release();
    throw error;
  }
}

/** Files that a new run finds in its folder and removes. */
export interface EarlierFiles {
  what: 'an unfinished run' | 'a finished run' | 'results of another model';
  /** Checkpoints and results of the model, or else a file that shows that a run was there. */
  names: string[];
}

/** Returns what a new run in the folder removes, if anything. */
export async function earlierFiles(outputDir: RunFolder): Promise<EarlierFiles | undefined> {
  const results = await resultsIn(outputDir);
  const trace = await latestTrace(outputDir);
  if (trace === undefined) {
    return results.length > 0 ? {what: 'results of another model', names: results} : undefined;
  }
  const names = [...(await checkpointSteps(outputDir)).map((step) => `checkpoint-${step}`), ...results];
  return {
    what: (await holdsUnfinished(outputDir)) ? 'an unfinished run' : 'a finished run',
    names: names.length > 0 ? names : [trace],
  };
}

/**
 * Removes the files of an earlier run and results of another model when a run begins, with a warning that names them.
 * Earlier weights stay until new ones replace them.
 */
export async function clearOutputFolder(outputDir: RunFolder): Promise<void> {
  const earlier = await earlierFiles(outputDir);
  if (earlier) warn(`${outputDir.fullPath}: training removes ${earlier.what}: ${earlier.names.join(', ')}`);
  for (const step of await checkpointSteps(outputDir)) await removeCheckpoint(outputDir, step);
  await removeAbandoned(outputDir);
  await removeAll(outputDir, [...RUN_FILES, ...(await resultsIn(outputDir))]);
}

/** Marks a resumed run as unfinished, and removes results of its earlier model with a warning. */
export async function markUnfinished(outputDir: RunFolder): Promise<void> {
  if (await outputDir.has(FINISHED)) {
    const results = await resultsIn(outputDir);
    if (results.length > 0) {
      warn(
        `${outputDir.fullPath}: training resumes, so the results of the earlier model are removed (${results.join(', ')})`,
      );
    }
    await removeAll(outputDir, [...results, ALL_RESULTS]);
  }
  await outputDir.remove(FINISHED);
}

/**
 * Whether the run in a folder is finished, so that resuming it for this number of steps would train none. False without
 * a checkpoint, or when the number of steps is unknown.
 */
export async function isFinishedRun(
  outputDir: RunFolder,
  checkpoint: RunFolder | undefined,
  totalSteps: number | undefined,
): Promise<boolean> {
  if (checkpoint === undefined || totalSteps === undefined) return false;
  const newest = checkpointFolder(outputDir, (await checkpointSteps(outputDir)).at(-1) ?? 0);
  if (checkpoint.fullPath !== newest.fullPath) return false;
  const names = await outputDir.names();
  if (![FINISHED, STATE].every((name) => names.includes(name))) return false;
  if (!WEIGHT_FILES.some((name) => names.includes(name))) return false;
  const {global_step, max_steps} = (await readJsonOf(outputDir, STATE)) as Record<string, number>;
  return max_steps === totalSteps || global_step >= totalSteps; // equal but fewer done: it was stopped early
}

const resultsIn = async (outputDir: RunFolder): Promise<string[]> =>
  (await outputDir.names()).filter((name) => RESULTS.test(name)).sort();

async function removeAll(outputDir: RunFolder, names: readonly string[]): Promise<void> {
  for (const name of names) await outputDir.remove(name);
}

const holdsUnfinished = async (outputDir: RunFolder): Promise<boolean> =>
  (await checkpointSteps(outputDir)).length > 0 && !(await outputDir.has(FINISHED));

async function assertEarlierRun(
  outputDir: RunFolder,
  {overwrite = false, resume}: OutputWishes,
  {what, advice}: OutputWords,
): Promise<void> {
  const isToGoOn = resume !== undefined && resume !== false;
  const isUnfinished = await holdsUnfinished(outputDir);
  const isToGo = overwrite && (!isUnfinished || resume === false);
  const found = await latestTrace(outputDir);
  if (isToGoOn || isToGo || found === undefined) return;
  const canGoOn = (await newestCheckpoint(outputDir)) !== undefined;
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${what} ${outputDir.fullPath}: expected no ${isUnfinished ? 'unfinished' : 'earlier'} run in it, got ${found}.` +
      advice({canGoOn, isUnfinished}),
  );
}

/**
 * Returns the newest checkpoint, or else a file of a finished run; undefined if a run was stopped before it saved
 * anything.
 */
async function latestTrace(outputDir: RunFolder): Promise<string | undefined> {
  const step = (await checkpointSteps(outputDir)).at(-1);
  if (step !== undefined) return `checkpoint-${step}`;
  const names = await outputDir.names();
  return [...WEIGHT_FILES, FINISHED].find((name) => names.includes(name));
}
