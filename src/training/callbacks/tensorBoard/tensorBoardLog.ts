import type {RunFolder} from '../../../../quant/folders/runFolder.ts';
import type {TrainingCallback} from '../../run/callbacks.ts';
import type {TrainingRun} from '../../run/trainingRun.ts';
import {EventFile} from './eventFile.ts';

/** Writes the log to `runs/` as TensorBoard event files, with transformers' tags: `train/loss`, `eval/loss`. */
export function tensorBoardLog(run: TrainingRun, outputDir: RunFolder): TrainingCallback {
  let file: EventFile | undefined;
  return {
    onTrainBegin: async () => {
      file = await EventFile.start(outputDir.subfolder('runs'), run.firstStep > 0 ? run.firstStep + 1 : 0);
    },
    onLog: async ({step, ...numbers}) => {
      const tagged = Object.entries(numbers).map(([name, value]) => [tagOf(name), value]);
      await file?.addScalars(step, Object.fromEntries(tagged));
    },
  };
}

const tagOf = (name: string): string => name.replace(/^(?!eval_)/, 'train/').replace(/^eval_/, 'eval/');
