import {TfjsLoraError} from '../../../quant/errors.ts';
import type {RunFolder} from '../../../quant/folders/runFolder.ts';
import {didYouMeanPath} from '../../../quant/folders/similarPath.ts';
import {warn} from '../../../quant/warn.ts';
import {dataFingerprint} from '../../data/batches/dataFingerprint.ts';
import {ranks} from '../cluster/ranks.ts';
import {loadOptimizer} from '../optimizers/optimizerFile.ts';
import {
  checkpointFolder,
  checkpointSteps,
  isCheckpoint,
  isWholeCheckpoint,
  newestCheckpoint,
  readCheckpoint,
  setAsideAfter,
} from '../output/checkpointFolder.ts';
import {openRunFolder} from '../output/diskRunFolder.ts';
import type {FitPlan} from '../run/fitArgs.ts';
import type {RunProgress, TrainingRun} from '../run/trainingRun.ts';
import {assertRestorable, restoreTrainedWeights} from './trainedWeights.ts';
import {readLog} from './trainerState.ts';

export const OPTIMIZER_FILE = 'optimizer.safetensors';

/** State of a checkpoint beside weights, optimizer and log. */
interface ResumeState {
  progress: RunProgress;
  /** The trainer's counter of steps, which dropout's seeds and schedules depend on. */
  trainerSteps: number;
  firstTrainerStep: number;
  totalSteps?: number;
  /** Settings and data that decide the order of the examples. */
  order: Record<string, unknown>;
  optimizer: {name: string; config: unknown};
  callbacks: Record<string, Record<string, unknown>>;
}

export function resumeStateOf(run: TrainingRun): Record<string, unknown> {
  const {progress, trainer, firstTrainerStep, totalSteps, callbacks} = run;
  const {optimizer, steps} = trainer;
  const state: ResumeState = {
    progress,
    trainerSteps: steps,
    firstTrainerStep,
    totalSteps,
    order: orderOf(run),
    optimizer: {name: optimizer.getClassName(), config: optimizer.getConfig()},
    callbacks: callbacks.states,
  };
  return {...state};
}

/** The caller's words for its setting, for errors. */
export interface ResumeWords {
  /** Name of the setting that names the checkpoint. */
  what: string;
  /** Advice on how to start over. */
  advice: string;
}

const FIT_WORDS: ResumeWords = {
  what: 'fitDataset resumeFromCheckpoint',
  advice: ' Pass overwriteOutputDir: true and resumeFromCheckpoint: false to start over.',
};

/**
 * Returns the checkpoint that a run resumes from, if any.
 *
 * @throws TfjsLoraError `FILE_NOT_FOUND` when a named folder has none, `CORRUPT_FILE` when all are damaged
 */
export async function checkpointToResume(
  {resumeFromCheckpoint: resume, outputDir}: Pick<FitPlan, 'resumeFromCheckpoint' | 'outputDir'>,
  words: ResumeWords = FIT_WORDS,
): Promise<RunFolder | undefined> {
  if (resume && resume !== true) {
    const folder = openRunFolder(resume);
    if (await isCheckpoint(folder)) return folder;
    const newest = await newestOf(folder, words);
    if (newest === undefined) throw await noCheckpoint(folder, words);
    return newest;
  }
  if (!resume || outputDir === undefined) return undefined;
  const folder = openRunFolder(outputDir);
  const newest = await newestOf(folder, words);
  if (newest === undefined) {
    warn(`fitDataset: ${folder.fullPath} has no checkpoint to resume from; training starts over`);
  }
  return newest;
}

/** Returns the error for a folder without a checkpoint. */
export async function noCheckpoint(folder: RunFolder, {what, advice}: ResumeWords): Promise<TfjsLoraError> {
  const isThere = await folder.exists();
  const got = isThere ? 'none there' : 'no such folder';
  const similar = isThere ? '' : didYouMeanPath(folder.path);
  return new TfjsLoraError(
    'FILE_NOT_FOUND',
    `${what} ${folder.fullPath}: expected a checkpoint, or a run that has saved one, got ${got}.${advice}${similar}`,
  );
}

async function newestOf(outputDir: RunFolder, {what, advice}: ResumeWords): Promise<RunFolder | undefined> {
  const newest = await newestCheckpoint(outputDir);
  if (newest !== undefined || (await checkpointSteps(outputDir)).length === 0) return newest;
  throw new TfjsLoraError(
    'CORRUPT_FILE',
    `${what} ${outputDir.fullPath}: expected an intact checkpoint, got only damaged ones.${advice}`,
  );
}

/**
 * Renames the checkpoints in the output folder that are later than the one a run resumes from, with a warning. Renames
 * all of them when that one is in another folder.
 */
export async function leaveLaterCheckpoints(
  {plan, progress}: TrainingRun,
  outputDir: RunFolder,
  from: RunFolder,
): Promise<void> {
  const isHere = from.fullPath === checkpointFolder(outputDir, progress.step).fullPath;
  const moved = await setAsideAfter(outputDir, isHere ? progress.step : 0);
  const isWhole = await Promise.all(moved.map(([, after]) => isWholeCheckpoint(outputDir.subfolder(after))));
  if (!isWhole.includes(true)) return; // the damaged ones were already reported as skipped
  const limit = plan.saveTotalLimit === undefined ? '' : ', and removed first when new ones are written';
  warn(
    `${outputDir.fullPath}: training resumes from ${from.path}, so later checkpoints are renamed: ` +
      `${moved.map(([before, after]) => `${before} as ${after}`).join(', ')}${limit}`,
  );
}

/**
 * Restores a run from a checkpoint: weights, optimizer, counters, place in the data, log and callbacks.
 *
 * @throws TfjsLoraError `CORRUPT_FILE`, `FILE_NOT_FOUND`; `INVALID_ARGUMENT` before anything changes when data or
 *   settings would give other batches than the run had
 */
export async function resume(run: TrainingRun, folder: RunFolder): Promise<void> {
  const {optimizer} = run.trainer;
  const state = await assertResumable(run, folder);
  warnOfChanges(run, state, folder);
  const log = await readLog(folder);
  await restoreTrainedWeights(run.model, folder);
  await loadOptimizer(optimizer, OPTIMIZER_FILE, folder);
  run.progress = state.progress;
  const {position} = run.progress;
  const {batchesPerStep} = run.plan;
  position.batches = Math.min(position.windows * batchesPerStep, run.batchesPerEpoch ?? position.batches);
  run.log = log;
  run.firstStep = state.progress.step;
  run.firstTokens = state.progress.tokensSeen;
  run.firstTrainerStep = state.firstTrainerStep;
  run.trainer.steps = state.trainerSteps;
  run.callbacks.states = state.callbacks;
}

/**
 * Checks that a run can resume from a checkpoint, and changes nothing. The model's weights need not be allocated.
 *
 * @throws TfjsLoraError as {@link resume}
 */
export async function assertResumable(run: TrainingRun, folder: RunFolder): Promise<ResumeState> {
  const state = (await readCheckpoint(folder)) as unknown as ResumeState;
  assertSameOrder(orderOf(run), state.order, folder);
  const name = run.trainer.optimizer.getClassName();
  if (state.optimizer.name !== name) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `checkpoint ${folder.fullPath} optimizer: expected ${state.optimizer.name}, got ${name}. ` +
        'Call compile() with the optimizer of the run.',
    );
  }
  await assertRestorable(run.model, folder);
  return state;
}

/** Returns the settings and data that decide which examples a step sees. */
export function orderOf({plan, data}: TrainingRun): Record<string, unknown> {
  const {batchSize, gradientAccumulationSteps, shuffle, groupByLength, seed} = plan;
  return {
    ranks: ranks().size,
    batchSize,
    gradientAccumulationSteps,
    shuffle,
    groupByLength,
    seed,
    data: dataFingerprint(data) ?? null,
  };
}

function assertSameOrder(
  ownOrder: Record<string, unknown>,
  earlierOrder: Record<string, unknown>,
  folder: RunFolder,
): void {
  const [now, before] = comparableOrders(ownOrder, {ranks: 1, ...earlierOrder});
  for (const [name, value] of Object.entries(before)) {
    if (now[name] === value) continue;
    const [expected, got] =
      name === 'data' ? ['the examples of the run', 'other examples'] : [value, now[name]];
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `checkpoint ${folder.fullPath} ${name}: expected ${expected}, got ${got}. A run resumes with its own settings and data. ` +
        'To start another run from its weights, use loadAdapter(folder, {trainable: true}), or ' +
        'adapter_name_or_path in a recipe.',
    );
  }
}

/** With another number of ranks, a step sees the same examples if their number is the same. */
function comparableOrders(...orders: Record<string, unknown>[]): Record<string, unknown>[] {
  if (orders[0].ranks === orders[1].ranks) return orders;
  return orders.map(({ranks, batchSize, gradientAccumulationSteps, ...rest}) => ({
    'batchSize × gradientAccumulationSteps × ranks':
      Number(batchSize) * Number(gradientAccumulationSteps) * Number(ranks),
    ...rest,
  }));
}

function warnOfChanges(run: TrainingRun, state: ResumeState, folder: RunFolder): void {
  const config = JSON.stringify(run.trainer.optimizer.getConfig());
  const changes = [
    ...(config === JSON.stringify(state.optimizer.config) ? [] : ["the optimizer's settings"]),
    ...(run.totalSteps === state.totalSteps ? [] : ['the number of steps']),
  ];
  if (changes.length === 0) return;
  warn(
    `checkpoint ${folder.fullPath}: ${changes.join(' and ')} changed, so the rest of the run differs from an uninterrupted one`,
  );
}
