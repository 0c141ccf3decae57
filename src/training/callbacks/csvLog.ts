import type {RunFolder} from '../../../quant/folders/runFolder.ts';
import {LinesFile} from '../output/linesFile.ts';
import type {TrainingCallback} from '../run/callbacks.ts';
import type {TrainingRun} from '../run/trainingRun.ts';

const COLUMNS = [
  'step',
  'epoch',
  'loss',
  'grad_norm',
  'learning_rate',
  'eval_loss',
  'eval_perplexity',
  'skipped_steps',
  'num_input_tokens_seen',
  'train_tokens_per_second',
  'train_loss',
  'train_runtime',
];

/** Writes `trainer_log.csv`: the log as a table, with an empty cell for each number that a line lacks. */
export function csvLog(run: TrainingRun, outputDir: RunFolder): TrainingCallback {
  const file = new LinesFile(outputDir, 'trainer_log.csv');
  const {metrics} = run.trainer.loss;
  const evaluated = [...metrics, ...run.scoreNames].map((name) => `eval_${name}`);
  const columns = [...COLUMNS, ...metrics, ...evaluated];
  return {
    onTrainBegin: () => file.open(run.log.length, columns.join(',')),
    onLog: (entry) => file.append(columns.map((name) => entry[name] ?? '').join(',')),
  };
}
