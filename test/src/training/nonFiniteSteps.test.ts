import {readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {AdamW, type Example, type StepLog, setWarningHandler, Trainer} from '../../../src/index.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {BigramModel} from './bigramModel.ts';
import {temporaryFolder} from './temporaryFolder.ts';

const EXAMPLES: Example[] = Array.from({length: 8}, (_, i) => ({inputIds: [1, 2 + (i % 4), 3, i % 6]}));
const ARGS = {batchSize: 1, verbose: 0, shuffle: false};
const pathOf = temporaryFolder();
const snapshot = (model: BigramModel) => Array.from(model.table.dataSync());

describeEachBackend('steps that are not finite', () => {
  let model: BigramModel;
  let trainer: Trainer;
  let optimizer: AdamW;
  let warnings: string[];
  let before: (message: string) => void;
  beforeEach(() => {
    model = new BigramModel();
    trainer = new Trainer(model);
    optimizer = new AdamW({learningRate: 0.1});
    trainer.compile({optimizer, schedule: 'linear'});
    warnings = [];
    before = setWarningHandler((message) => warnings.push(message));
  });
  afterEach(() => {
    optimizer.dispose();
    model.table.dispose();
    setWarningHandler(before);
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY])('are skipped and counted: %s', async (factor) => {
    model.spoil = (call) => ([2, 3, 6].includes(call) ? factor : 1);
    const weights: number[][] = [];
    const outputDir = pathOf(`skipped-${factor}-${tf.getBackend()}`);
    const {steps, history} = await trainer.fit(EXAMPLES, {
      ...ARGS,
      outputDir,
      loggingSteps: 3,
      callbacks: (_: StepLog) => void weights.push(snapshot(model)),
    });
    expect(steps.map(({isSkipped = false}) => isSkipped)).toEqual(
      [0, 0, 1, 1, 0, 0, 1, 0].map((skipped) => skipped === 1),
    );
    expect([weights[2], weights[3]]).toEqual([weights[1], weights[1]]);
    expect(weights[6]).toEqual(weights[5]);
    expect(weights[4]).not.toEqual(weights[3]);
    expect([optimizer.iterations, trainer.steps]).toEqual([5, 8]);
    expect(steps[4].learningRate).toBeCloseTo(0.1 * (1 - 4 / 8), 10); // the schedule continues
    const finite = steps.filter(({isSkipped}) => !isSkipped).map(({loss}) => loss);
    const mean = finite.reduce((sum, loss) => sum + loss, 0) / 5;
    expect(history.loss[0]).toBeCloseTo(mean, 10);
    const {log_history} = JSON.parse(readFileSync(join(outputDir, 'trainer_state.json'), 'utf8'));
    expect(log_history).toMatchObject([
      {step: 3, loss: expect.closeTo((steps[0].loss + steps[1].loss) / 2, 10), skipped_steps: 1},
      {step: 6, loss: expect.closeTo((steps[4].loss + steps[5].loss) / 2, 10), skipped_steps: 2},
      {step: 8, train_loss: expect.closeTo(mean, 10), skipped_steps: 3},
    ]);
  });

  test('too many in a row end the run with advice, and nothing saved is overwritten', async () => {
    const outputDir = pathOf(`given-up-${tf.getBackend()}`);
    model.spoil = (call) => (call >= 3 ? Number.NaN : 1);
    let good: number[] = [];
    const run = trainer.fit(EXAMPLES, {
      ...ARGS,
      epochs: 9,
      outputDir,
      saveSteps: 1,
      maxNonFiniteSteps: 4,
      callbacks: ({step}) => {
        if (step === 3) good = snapshot(model);
      },
    });
    await expect(run).rejects.toMatchObject({
      code: 'NON_FINITE',
      message: expect.stringMatching(
        /^training step 7: .*the last of 4 such steps in a row.*Lower the learning rate/,
      ),
    });
    expect(readdirSync(outputDir).sort()).toEqual([
      'checkpoint-1',
      'checkpoint-2',
      'checkpoint-3',
      'trainer_log.jsonl',
    ]);
    expect(warnings).toHaveLength(3);
    expect(warnings[0]).toBe('checkpoint 4 was not written: the step before it was not finite');
    expect(snapshot(model)).toEqual(good);
    model.spoil = undefined;
    const {steps} = await trainer.fit(EXAMPLES, {...ARGS, outputDir, resumeFromCheckpoint: true});
    expect(steps.map(({step}) => step)).toEqual([4, 5, 6, 7, 8]);
  });

  test('weights that became infinite in an update are not saved', async () => {
    const outputDir = pathOf(`infinite-${tf.getBackend()}`);
    const huge = tf.train.sgd(1);
    trainer.compile({optimizer: huge, schedule: (step) => (step === 2 ? 3.4e38 * 10 : 0.1)});
    const run = trainer.fit(EXAMPLES, {...ARGS, outputDir, saveSteps: 1, maxSteps: 3});
    await expect(run).rejects.toMatchObject({
      code: 'NON_FINITE',
      message: expect.stringMatching(
        /weights in .*: expected finite weights, got NaN or infinity in table\.weight/,
      ),
    });
    expect(readdirSync(outputDir).sort()).toEqual(['checkpoint-1', 'checkpoint-2', 'trainer_log.jsonl']);
    expect(warnings).toEqual(
      expect.arrayContaining([expect.stringMatching(/^checkpoint 3: expected finite weights/)]),
    );
    huge.dispose();
  });

  test('leave no tensor behind', async () => {
    model.spoil = (call) => (call % 2 === 0 ? Number.NaN : 1);
    await trainer.fit(EXAMPLES, ARGS);
    const {numTensors} = tf.memory();
    await trainer.fit(EXAMPLES, ARGS);
    expect(tf.memory().numTensors).toBe(numTensors);
  });
});
