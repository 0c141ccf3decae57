import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {Trainer} from '../../../src/index.ts';
import {earlyStopping} from '../../../src/training/callbacks/earlyStopping.ts';
import {BestMetric} from '../../../src/training/run/bestMetric.ts';
import type {TrainingRun} from '../../../src/training/run/trainingRun.ts';
import {BigramModel} from './bigramModel.ts';

interface Case {
  losses: number[];
  patience: number;
  threshold: number;
  stop: number | null;
}
const cases: Case[] = JSON.parse(
  readFileSync(join(__dirname, 'fixtures', 'trainerFiles.json'), 'utf8'),
).early_stopping;

const evaluation = (loss: number) => ({
  loss,
  perplexity: Math.exp(loss),
  tokens: 1,
  examples: 1,
  batches: 1,
  seconds: 1,
});

test.each(cases)(
  'stops where transformers does: $losses, patience $patience, threshold $threshold',
  ({losses, patience, threshold, stop}) => {
    for (const resumeAt of [undefined, 2]) {
      const model = {stopTraining: false};
      let callback = earlyStopping({model, bestMetric: new BestMetric()} as TrainingRun, patience, threshold);
      const stopped = losses.findIndex((loss, i) => {
        if (i === resumeAt) {
          const state = JSON.parse(JSON.stringify(callback.getState?.()));
          callback = earlyStopping({model, bestMetric: new BestMetric()} as TrainingRun, patience, threshold);
          callback.setState?.(state);
        }
        callback.onEvaluate?.(evaluation(loss), i);
        return model.stopTraining;
      });
      expect(stopped).toBe(stop ?? -1);
    }
  },
);

test('ends a run, as complete', async () => {
  const model = new BigramModel();
  const trainer = new Trainer(model);
  trainer.compile({optimizer: tf.train.sgd(1), schedule: (step) => (step < 3 ? 1 : -1)});
  const data = [{inputIds: [1, 2, 3]}, {inputIds: [1, 2, 4]}];
  const {evaluations, isInterrupted} = await trainer.fit(data, {
    epochs: 9,
    batchSize: 2,
    verbose: 0,
    validationData: data,
    earlyStoppingPatience: 2,
  });
  expect(evaluations.map(({step}) => step)).toEqual([1, 2, 3, 4, 5]);
  expect(isInterrupted).toBe(false);
  trainer.optimizer.dispose();
  model.table.dispose();
});
