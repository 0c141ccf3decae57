import {existsSync, readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {
  type Example,
  type FitArgs,
  type LogEntry,
  Trainer,
  type TrainingHistory,
} from '../../../src/index.ts';
import {clock} from '../../../src/training/callbacks/trainerLogFile.ts';
import {DiskRunFolder} from '../../../src/training/output/diskRunFolder.ts';
import {writeResults} from '../../../src/training/output/resultFiles.ts';
import {smoothedLosses} from '../../../src/training/plots/lossPlot.ts';
import {BigramModel} from './bigramModel.ts';
import {temporaryFolder} from './temporaryFolder.ts';

const golden = JSON.parse(readFileSync(join(__dirname, 'fixtures', 'trainerFiles.json'), 'utf8'));
const EXAMPLES: Example[] = Array.from({length: 7}, (_, i) => ({inputIds: [1, 2 + (i % 4), 3, i % 6]}));
const pathOf = temporaryFolder();

const readJson = (...path: string[]) => JSON.parse(readFileSync(join(...path), 'utf8'));
const readLines = (...path: string[]) =>
  readFileSync(join(...path), 'utf8')
    .trim()
    .split('\n');

async function run(args: FitArgs): Promise<{history: TrainingHistory; entries: LogEntry[]}> {
  const model = new BigramModel();
  const trainer = new Trainer(model);
  trainer.compile({optimizer: 'adamw', schedule: 'linear'});
  const entries: LogEntry[] = [];
  try {
    const history = await trainer.fit(EXAMPLES, {
      batchSize: 1,
      verbose: 0,
      validationData: EXAMPLES.slice(0, 3),
      callbacks: {onLog: (entry) => void entries.push(entry)},
      ...args,
    });
    return {history, entries};
  } finally {
    trainer.dispose();
    model.table.dispose();
  }
}

describe('an output folder', () => {
  let outputDir: string;
  let history: TrainingHistory;
  let entries: LogEntry[];
  beforeAll(async () => {
    outputDir = pathOf('out');
    ({history, entries} = await run({
      epochs: 2,
      outputDir,
      loggingSteps: 3,
      evaluationStrategy: 'steps',
      evaluationSteps: 4,
      plotLoss: true,
    }));
  });

  test('has transformers’ trainer_state.json', () => {
    const state = readJson(outputDir, 'trainer_state.json');
    expect(Object.keys(state).sort()).toEqual(golden.trainer_state);
    expect(state).toMatchObject({
      global_step: 14,
      epoch: 2,
      max_steps: 14,
      num_train_epochs: 2,
      train_batch_size: 1,
      logging_steps: 3,
      eval_steps: 4,
      save_steps: 500,
      num_input_tokens_seen: 14 * 8, // padded to 8
    });
    expect(state.log_history).toEqual(entries);
    for (const [kind, keys] of Object.entries(golden.log)) {
      const line = state.log_history.find((entry: LogEntry) => kind in entry);
      expect(Object.keys(line)).toEqual(expect.arrayContaining(keys as string[]));
    }
  });

  test('logs the mean loss since the last line, and the evaluations between', () => {
    const seen = entries.map(({step, loss, eval_loss, train_loss}) => {
      const kind = loss !== undefined ? 'loss' : eval_loss !== undefined ? 'eval' : 'train';
      return [step, kind, loss ?? eval_loss ?? train_loss];
    });
    const mean = (from: number, to: number) => {
      const losses = history.loss.slice(from - 1, to);
      return losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
    };
    const close = (value: number) => expect.closeTo(value, 12);
    const evaluated = (step: number) =>
      history.evaluations.find((evaluation) => evaluation.step === step)?.loss as number;
    expect(seen).toEqual([
      [3, 'loss', close(mean(1, 3))],
      [4, 'eval', evaluated(4)],
      [6, 'loss', close(mean(4, 6))],
      [8, 'eval', evaluated(8)],
      [9, 'loss', close(mean(7, 9))],
      [12, 'loss', close(mean(10, 12))],
      [12, 'eval', evaluated(12)],
      [14, 'train', close(mean(1, 14))],
      [14, 'eval', evaluated(14)],
    ]);
    expect(entries[0]).toMatchObject({
      grad_norm: history.steps[2].gradNorm,
      learning_rate: history.steps[2].learningRate,
      epoch: 3 / 7,
    });
  });

  test('has LLaMA-Factory’s trainer_log.jsonl', () => {
    const lines = readLines(outputDir, 'trainer_log.jsonl').map((line) => JSON.parse(line));
    expect(lines.map(({current_steps}) => current_steps)).toEqual(entries.map(({step}) => step));
    expect(Object.keys(lines[0])).toEqual([
      'current_steps',
      'total_steps',
      'loss',
      'lr',
      'epoch',
      'percentage',
      'elapsed_time',
      'remaining_time',
      'throughput',
      'total_tokens',
    ]);
    expect(lines[0]).toMatchObject({
      current_steps: 3,
      total_steps: 14,
      loss: entries[0].loss,
      lr: history.steps[2].learningRate,
      percentage: 21.43,
      elapsed_time: expect.stringMatching(/^0:0\d:\d\d$/),
      remaining_time: expect.stringMatching(/^0:00:\d\d$/),
      total_tokens: 24,
    });
    expect(lines[1]).toMatchObject({current_steps: 4, eval_loss: entries[1].eval_loss});
    expect(lines[1]).not.toHaveProperty('lr');
    expect(lines.find(({loss, eval_loss}) => loss === undefined && eval_loss === undefined)).toMatchObject({
      current_steps: 14,
      percentage: 100,
      remaining_time: '0:00:00',
    });
  });

  test('has results, sorted, apart and together', async () => {
    const [train, evaluation, all] = ['train', 'eval', 'all'].map((split) =>
      readJson(outputDir, `${split}_results.json`),
    );
    expect(Object.keys(train)).toEqual(expect.arrayContaining(golden.train_results));
    expect(Object.keys(evaluation)).toEqual(expect.arrayContaining(golden.eval_results));
    expect(Object.keys(train)).toEqual(Object.keys(train).sort());
    expect(all).toEqual({...train, ...evaluation});
    expect(train.train_loss).toBeCloseTo(history.loss.reduce((sum, loss) => sum + loss, 0) / 14, 12);
    expect(train.train_samples_per_second * train.train_runtime).toBeCloseTo(14, 6);
    expect(evaluation.eval_loss).toBe(history.evaluations.at(-1)?.loss);
    expect(evaluation.eval_perplexity).toBeCloseTo(Math.exp(evaluation.eval_loss), 10);
    await writeResults(new DiskRunFolder(outputDir), 'predict', {'predict_bleu-4': 3});
    expect(readJson(outputDir, 'all_results.json')).toEqual({...all, 'predict_bleu-4': 3});
    expect(readFileSync(join(outputDir, 'train_results.json'), 'utf8')).toMatch(/^\{\n {4}"epoch": 2,\n/);
  });

  test('has plots of both losses, with the logged points and their average', () => {
    for (const [key, points] of [
      ['loss', 4],
      ['eval_loss', 4],
    ] as const) {
      const png = readFileSync(join(outputDir, `training_${key}.png`));
      expect(png.subarray(0, 8).toString('latin1')).toBe('\x89PNG\r\n\x1a\n');
      const svg = readFileSync(join(outputDir, `training_${key}.svg`), 'utf8');
      expect(svg).toContain(key === 'loss' ? 'training loss of out' : 'validation loss of out');
      const smoothed = /<path[^>]*d="([^"]*)"[^>]*stroke="#17458f"/.exec(
        svg.slice(svg.indexOf('line mark')),
      )?.[1];
      expect(smoothed?.match(/[ML]/g)).toHaveLength(points);
      expect(entries.filter((entry) => key in entry)).toHaveLength(points);
    }
    expect(smoothedLosses([4, 2])).toEqual([
      4,
      expect.closeTo(2 + 2 * 1.8 * (1 / (1 + Math.exp(-0.1)) - 0.5), 12),
    ]);
  });
});

test('logging by epoch and not at all', async () => {
  const byEpoch = await run({epochs: 2, loggingStrategy: 'epoch', validationData: undefined});
  expect(byEpoch.entries.map(({step, loss}) => [step, loss])).toEqual([
    [7, expect.closeTo(byEpoch.history.history.loss[0], 10)],
    [14, expect.closeTo(byEpoch.history.history.loss[1], 10)],
  ]);
  expect((await run({loggingStrategy: 'no', validationData: undefined})).entries).toEqual([]);
});

test('evaluation by epoch, by steps, and once at the end', async () => {
  const stepsOf = async (args: FitArgs) =>
    (await run({epochs: 2, outputDir: pathOf(JSON.stringify(args)), ...args})).history.evaluations.map(
      ({step}) => step,
    );
  expect(await stepsOf({})).toEqual([7, 14]);
  expect(await stepsOf({evaluationSteps: 5})).toEqual([5, 7, 10, 14]);
  expect(await stepsOf({evaluationStrategy: 'epoch', evaluationSteps: 5})).toEqual([7, 14]);
  expect(await stepsOf({evaluationStrategy: 'steps', evaluationSteps: 5})).toEqual([5, 10, 14]);
  expect(await stepsOf({evaluationStrategy: 'no'})).toEqual([14]);
  expect((await run({evaluationStrategy: 'no'})).history.evaluations.map(({step}) => step)).toEqual([7]); // no folder
});

test('CSV has the log as a table', async () => {
  const outputDir = pathOf('csv');
  const {entries} = await run({outputDir, loggingSteps: 2, reportTo: 'csv'});
  const [header, ...rows] = readLines(outputDir, 'trainer_log.csv').map((line) => line.split(','));
  expect(header.slice(0, 3)).toEqual(['step', 'epoch', 'loss']);
  expect(rows).toHaveLength(entries.length);
  for (const [i, row] of rows.entries())
    for (const [column, name] of header.entries()) expect(row[column]).toBe(String(entries[i][name] ?? ''));
});

test('a stop request leaves a checkpoint and the log, and no results', async () => {
  const outputDir = pathOf('stopped');
  const controller = new AbortController();
  const saved: string[] = [];
  const {history} = await run({
    outputDir,
    signal: controller.signal,
    plotLoss: true,
    callbacks: {
      onStepBegin: (step) => void (step === 3 && controller.abort()),
      onSave: (folder) => void saved.push(folder),
      onTrainEnd: () => void saved.push('end'),
    },
  });
  expect([history.isInterrupted, history.steps.length, history.evaluations.length]).toEqual([true, 3, 0]);
  expect(saved).toEqual([join(outputDir, 'checkpoint-3'), 'end']);
  expect(readdirSync(outputDir).sort()).toEqual(['checkpoint-3', 'trainer_log.jsonl', 'trainer_state.json']);
  const aborted = await run({signal: AbortSignal.abort()});
  expect(aborted.history.steps).toEqual([]); // before the first step
});

test('a stop request between two steps leaves a checkpoint too', async () => {
  const outputDir = pathOf('stopped-between');
  const controller = new AbortController();
  const {history} = await run({
    outputDir,
    signal: controller.signal,
    // Like a signal's handler, this runs on the next turn of the event loop, after the synchronous work of callbacks.
    callbacks: ({step}) => void (step === 3 && setImmediate(() => controller.abort())),
  });
  const {step} = history.steps.at(-1)!;
  expect([history.isInterrupted, step >= 3]).toEqual([true, true]);
  expect(readdirSync(outputDir)).toContain(`checkpoint-${step}`);
});

test('stopTraining ends a run as complete', async () => {
  const outputDir = pathOf('complete');
  const model = new BigramModel();
  const trainer = new Trainer(model);
  const {isInterrupted} = await trainer.fit(EXAMPLES, {
    batchSize: 1,
    verbose: 0,
    outputDir,
    callbacks: ({step}) => {
      model.stopTraining = step === 2;
    },
  });
  expect(isInterrupted).toBe(false);
  expect(existsSync(join(outputDir, 'train_results.json'))).toBe(true);
  expect(existsSync(join(outputDir, 'checkpoint-2'))).toBe(true);
  tf.dispose(model.table);
  trainer.dispose();
});

test('times are formatted as Python prints them', () => {
  expect([0, 61.9, 3600, 86_399, 90_061, 200_000].map(clock)).toEqual([
    '0:00:00',
    '0:01:01',
    '1:00:00',
    '23:59:59',
    '1 day, 1:01:01',
    '2 days, 7:33:20',
  ]);
});
