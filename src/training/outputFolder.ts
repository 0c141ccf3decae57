import * as fs from 'node:fs';
import {join, resolve} from 'node:path';
import {TfjsLoraError} from '../../quant/errors.ts';
import {checkpointSteps, removeCheckpoint, removeUnfinished} from './checkpointFolder.ts';
import type {TrainingRun} from './trainingRun.ts';

/** What a run writes beside checkpoints and weights. */
const RUN_FILES = [
  'trainer_log.jsonl',
  'trainer_log.csv',
  'trainer_state.json',
  'train_results.json',
  'eval_results.json',
  'all_results.json',
  'training_loss.png',
  'training_loss.svg',
  'training_eval_loss.png',
  'training_eval_loss.svg',
  'runs',
];
const WEIGHT_FILES = ['adapter_config.json', 'config.json', 'trained_weights.safetensors'];

/**
 * Makes the output folder ready. A run that begins asks for an empty one, or removes what an earlier run wrote, but for
 * its weights, which stay until new ones replace them.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` when the folder holds an earlier run that is not to be overwritten
 */
export function prepareOutputFolder({plan}: TrainingRun, outputDir: string, isResumed: boolean): void {
  fs.mkdirSync(outputDir, {recursive: true});
  removeUnfinished(outputDir);
  if (isResumed) return;
  const steps = checkpointSteps(outputDir);
  const found = [...RUN_FILES, ...WEIGHT_FILES].find((name) => fs.existsSync(join(outputDir, name)));
  const earlier = steps.length > 0 ? `checkpoint-${steps.at(-1)}` : found;
  if (earlier === undefined) return;
  if (!plan.overwriteOutputDir && !plan.resumeFromCheckpoint) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `fitDataset outputDir ${resolve(outputDir)}: expected no earlier run in it, got ${earlier}. ` +
        'Pass resumeFromCheckpoint: true to go on, overwriteOutputDir: true to begin anew, or another folder.',
    );
  }
  for (const step of steps) removeCheckpoint(outputDir, step);
  for (const name of RUN_FILES) fs.rmSync(join(outputDir, name), {recursive: true, force: true});
}
