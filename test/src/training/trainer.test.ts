import * as tf from '@tensorflow/tfjs';
import {AdamW, type Batch, type Example, type StepLog, Trainer} from '../../../src/index.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {BigramModel} from './bigramModel.ts';

const LONG: Batch = {
  inputIds: [[1, 2, 3, 4, 5, 1, 2, 3]],
  labels: [[1, 2, 3, 4, 5, 1, 2, 3]], // 7 targets
};
const SHORT: Batch = {inputIds: [[4, 0, 0]], labels: [[-100, -100, 2]]}; // 1 target
const EXAMPLES: Example[] = Array.from({length: 7}, (_, i) => ({inputIds: [1, 2 + (i % 4), 3, i % 6]}));
const SILENT = {verbose: 0};

const values = (model: BigramModel) => Array.from(model.table.dataSync());

let model: BigramModel;
let trainer: Trainer;

beforeEach(() => {
  model = new BigramModel();
  trainer = new Trainer(model);
});
afterEach(() => {
  trainer.dispose();
  model.table.dispose();
});

describeEachBackend('a training step', () => {
  test('averages a window over its labels, not its batches', async () => {
    const surprises = [
      [1, 2],
      [2, 3],
      [3, 4],
      [4, 5],
      [5, 1],
      [1, 2],
      [2, 3],
      [0, 2],
    ];
    const mean = surprises.reduce((sum, [from, to]) => sum + model.surprise(from, to), 0) / 8;
    const {loss, tokens, gradients} = await trainer.computeGradients([LONG, SHORT]);
    expect(tokens).toBe(8);
    expect(loss).toBeCloseTo(mean, 5);
    expect(Object.keys(gradients)).toEqual(['table.weight']);

    // The same labels in one batch give the same gradient.
    const pad = (row: number[], by: number) => [...row, ...new Array<number>(8 - row.length).fill(by)];
    const whole = await trainer.computeGradients({
      inputIds: [(LONG.inputIds as number[][])[0], pad((SHORT.inputIds as number[][])[0], 0)],
      labels: [(LONG.labels as number[][])[0], pad((SHORT.labels as number[][])[0], -100)],
    });
    const [a, b] = [gradients, whole.gradients].map((map) => map['table.weight'].dataSync());
    expect(whole.loss).toBeCloseTo(loss, 6);
    for (let i = 0; i < a.length; i++) expect(a[i]).toBeCloseTo(b[i], 6);
    tf.dispose([gradients, whole.gradients]);
  });

  test('keeps no tensors, whatever the optimizer', async () => {
    for (const optimizer of ['adamw', 'adam', 'sgd', 'rmsprop', 'adagrad', 'adamax', 'adadelta'] as const) {
      trainer.compile({optimizer, schedule: {name: 'cosine', totalSteps: 9}, maxGradNorm: 0.1});
      await trainer.trainOnBatch([LONG, SHORT]); // makes the state
      const before = tf.memory().numTensors;
      await trainer.trainOnBatch([LONG, SHORT]);
      expect([optimizer, tf.memory().numTensors]).toEqual([optimizer, before]);
    }
  });

  test('takes tensors, which remain the caller’s', async () => {
    const rows = await trainer.computeGradients(LONG);
    const batch = {
      inputIds: tf.tensor2d(LONG.inputIds as number[][], undefined, 'int32'),
      labels: tf.tensor2d(LONG.labels as number[][], undefined, 'int32'),
    };
    const before = tf.memory().numTensors;
    const tensors = await trainer.computeGradients(batch);
    expect(tensors.loss).toBe(rows.loss);
    tf.dispose(tensors.gradients);
    expect(tf.memory().numTensors).toBe(before);
    tf.dispose([batch, rows.gradients]);
  });

  test('changes nothing when the loss is not finite, and names the step', async () => {
    const optimizer = new AdamW({learningRate: 0.1});
    trainer.compile({optimizer});
    model.spoil = (call) => (call === 3 ? Number.NaN : 1); // the second batch of the second window
    await trainer.trainOnBatch([LONG, SHORT]);
    const [before, tensors] = [values(model), tf.memory().numTensors];
    await expect(trainer.trainOnBatch([LONG, SHORT])).rejects.toMatchObject({
      code: 'NON_FINITE',
      message: expect.stringMatching(/^training step 2: expected numbers, got loss NaN, gradient norm NaN/),
    });
    expect(values(model)).toEqual(before);
    expect(optimizer.iterations).toBe(1);
    expect(tf.memory().numTensors).toBe(tensors);
    await trainer.trainOnBatch([LONG, SHORT]); // and continues
    expect(trainer.steps).toBe(2);
    optimizer.dispose();
  });

  test('keeps no tensors when the model throws in the middle of a window', async () => {
    model.spoil = (call) => {
      if (call === 1) throw new Error('out of memory');
      return 1;
    };
    const before = tf.memory().numTensors;
    await expect(trainer.trainOnBatch([LONG, SHORT])).rejects.toThrow('out of memory');
    expect(tf.memory().numTensors).toBe(before);
  });

  test('clips the whole gradient to maxGradNorm, and reports the norm before clipping', async () => {
    const {gradients} = await trainer.computeGradients(LONG);
    const gradient = gradients['table.weight'].dataSync();
    tf.dispose(gradients);
    const norm = Math.hypot(...gradient);
    const start = values(model);
    trainer.compile({optimizer: tf.train.sgd(1), maxGradNorm: norm / 4});
    const result = await trainer.trainOnBatch(LONG);
    expect(result.gradNorm).toBeCloseTo(norm, 5);
    for (const [i, value] of values(model).entries())
      expect(start[i] - value).toBeCloseTo(gradient[i] / 4, 5);
    trainer.optimizer.dispose();
  });

  test('passes gradients to the hook, which may replace them', async () => {
    const start = values(model);
    trainer.compile({optimizer: tf.train.sgd(1)});
    trainer.onGradients = (window) => {
      const old = window.gradients;
      expect(Object.keys(old)).toEqual(['table.weight']);
      window.gradients = {'table.weight': tf.onesLike(old['table.weight'])};
      window.loss = 5;
      tf.dispose(old);
    };
    const before = tf.memory().numTensors;
    const {loss, gradNorm} = await trainer.trainOnBatch(LONG);
    expect(tf.memory().numTensors).toBe(before);
    expect(loss).toBe(5);
    expect(gradNorm).toBeCloseTo(6, 5);
    for (const [i, value] of values(model).entries()) expect(value).toBeCloseTo(start[i] - 1, 5);
    trainer.optimizer.dispose();
  });

  test.each(['sgd', 'adam'] as const)("a schedule moves TensorFlow.js's own %s", async (name) => {
    const optimizer = name === 'sgd' ? tf.train.sgd(0.5) : tf.train.adam(0.5);
    trainer.compile({optimizer, schedule: (step) => (step === 0 ? 0 : 1)});
    const start = values(model);
    expect((await trainer.trainOnBatch(LONG)).learningRate).toBe(0);
    expect(values(model)).toEqual(start);
    expect((await trainer.trainOnBatch(LONG)).learningRate).toBe(0.5);
    expect(values(model)).not.toEqual(start);
    optimizer.dispose();
  });
});

describe('compile', () => {
  test('replaces earlier settings, and frees an optimizer that was made here', async () => {
    const before = tf.memory().numTensors;
    trainer.compile({optimizer: 'adamw'});
    await trainer.trainOnBatch(LONG);
    expect(tf.memory().numTensors).toBe(before + 2);
    const mine = new AdamW();
    trainer.compile({optimizer: mine});
    expect(tf.memory().numTensors).toBe(before);
    expect(trainer.steps).toBe(0);
    await trainer.trainOnBatch(LONG);
    trainer.compile({optimizer: 'SGD' as 'sgd'});
    expect(tf.memory().numTensors).toBe(before + 2 + 1); // what was passed in stays its maker's; SGD holds its rate
    mine.dispose();
  });

  test('restores the learning rate after each step', async () => {
    const optimizer = new AdamW({learningRate: 0.1});
    for (let run = 0; run < 2; run++) {
      trainer.compile({optimizer, schedule: 'linear'});
      const {learningRate} = await trainer.fit(EXAMPLES.slice(0, 4), {batchSize: 1, ...SILENT});
      for (const [step, rate] of learningRate.entries()) expect(rate).toBeCloseTo(0.1 * (1 - step / 4), 10);
      expect(optimizer.learningRate).toBe(0.1);
    }
    optimizer.dispose();
  });

  test.each([
    [{optimizer: 'adamm'}, 'optimizer "adamm": expected a tf.Optimizer or one of adamw'],
    [{optimizer: {}}, 'compile optimizer: expected a tf.Optimizer or a name'],
    [{maxGradNorm: 0}, 'compile maxGradNorm: expected a number above 0, got 0'],
    [{schedule: 'cosin'}, 'Did you mean cosine?'],
    [{schedule: {name: 'linear', warmupRatio: 2}}, 'warmupRatio: expected a number from 0 to 1'],
  ])('%o is refused, and nothing is replaced', (args, message) => {
    const {optimizer} = trainer;
    expect(() => trainer.compile(args as never)).toThrow(message);
    expect(trainer.optimizer).toBe(optimizer);
  });

  test('a schedule without a length must get one by the first step', async () => {
    trainer.compile({schedule: 'cosine'});
    await expect(trainer.trainOnBatch(LONG)).rejects.toThrow('"cosine": expected totalSteps, got none');
    const once = function* () {
      yield* EXAMPLES;
    };
    await expect(trainer.fit(once(), SILENT)).rejects.toThrow('expected totalSteps');
    expect(model.seen).toHaveLength(0);
    expect((await trainer.fit(once(), {maxSteps: 2, batchSize: 1, ...SILENT})).steps).toHaveLength(2);
  });
});

describe('fit', () => {
  test('goes through epochs, windows and a last one that is not full', async () => {
    const {steps, history, epoch} = await trainer.fit(EXAMPLES, {
      epochs: 2,
      batchSize: 2,
      gradientAccumulationSteps: 3,
      ...SILENT,
    }); // 7 examples → 4 batches → 2 steps an epoch
    expect(steps.map(({step, totalSteps, epoch, tokens}) => [step, totalSteps, epoch, tokens])).toEqual([
      [1, 4, 0.75, 18],
      [2, 4, 1, 3],
      [3, 4, 1.75, 18],
      [4, 4, 2, 3],
    ]);
    expect(epoch).toEqual([0, 1]);
    expect(history.loss[0]).toBeCloseTo((18 * steps[0].loss + 3 * steps[1].loss) / 21, 10);
    expect(history.loss[1]).toBeLessThan(history.loss[0]);
    expect(steps.every(({tokensPerSecond, gradNorm}) => tokensPerSecond > 0 && gradNorm > 0)).toBe(true);
  });

  test('shuffles a list again in each epoch, the same for the same seed', async () => {
    const order = async (args: {seed?: number; shuffle?: boolean}) => {
      const other = new BigramModel('other');
      const otherTrainer = new Trainer(other);
      await otherTrainer.fit(EXAMPLES, {epochs: 2, batchSize: 1, ...SILENT, ...args});
      otherTrainer.dispose();
      other.table.dispose();
      return other.seen.map(({batch}) => (batch.inputIds as number[][])[0].join());
    };
    const first = await order({seed: 3});
    expect(await order({seed: 3})).toEqual(first);
    expect(await order({seed: 4})).not.toEqual(first);
    expect(first.slice(0, 7)).not.toEqual(first.slice(7));
    expect(first.slice(0, 7).sort()).toEqual(first.slice(7).sort());
    const plain = await order({shuffle: false});
    expect(plain.slice(0, 7)).toEqual(plain.slice(7));
    expect(plain.slice(0, 4)).toEqual(
      EXAMPLES.slice(0, 4).map(({inputIds}) => [...inputIds, 0, 0, 0, 0].join()),
    );
  });

  test('seeds every micro-batch of every step differently, depending only on run, step and place', async () => {
    const seeds = async (seed: number) => {
      model.seen.length = 0;
      trainer.compile();
      await trainer.fit(EXAMPLES, {batchSize: 1, gradientAccumulationSteps: 2, seed, ...SILENT});
      return model.seen.map((call) => call.seed);
    };
    const [first, again, other] = [await seeds(1), await seeds(1), await seeds(2)];
    expect(again).toEqual(first);
    expect(new Set([...first, ...other]).size).toBe(14);
  });

  test('stops after maxSteps, and when a callback requests it', async () => {
    const run = {epochs: 9, batchSize: 2, ...SILENT};
    expect((await trainer.fit(EXAMPLES, {...run, maxSteps: 5})).steps).toHaveLength(5);
    const stopping = (record: StepLog) => {
      if (record.step === 6) model.stopTraining = true;
    };
    const {steps, epoch} = await trainer.fit(EXAMPLES, {...run, callbacks: stopping});
    expect([steps.length, epoch]).toEqual([6, [0, 1]]);
    expect((await trainer.fit(EXAMPLES, {...run, epochs: 1})).steps).toHaveLength(4); // the flag is reset
  });

  test('continues at initialEpoch with that epoch’s order', async () => {
    await trainer.fit(EXAMPLES, {epochs: 3, batchSize: 1, ...SILENT});
    const whole = model.seen.map(({batch}) => batch);
    model.seen.length = 0;
    const {epoch} = await trainer.fit(EXAMPLES, {epochs: 3, initialEpoch: 2, batchSize: 1, ...SILENT});
    expect(epoch).toEqual([2]);
    expect(model.seen.map(({batch}) => batch)).toEqual(whole.slice(14));
  });

  test('a schedule without a length starts over in each run, one with a length continues', async () => {
    const optimizer = new AdamW({learningRate: 1});
    const rates = async () =>
      (await trainer.fit(EXAMPLES.slice(0, 2), {batchSize: 1, ...SILENT})).learningRate;
    trainer.compile({optimizer, schedule: {name: 'linear'}});
    expect([await rates(), await rates()]).toEqual([
      [1, 0.5],
      [1, 0.5],
    ]);
    trainer.compile({optimizer, schedule: {name: 'linear', totalSteps: 4}});
    expect([await rates(), await rates()]).toEqual([
      [1, 0.75],
      [0.5, 0.25],
    ]);
    trainer.compile({optimizer, schedule: {name: 'constant_with_warmup', warmupRatio: 0.5}});
    expect(await rates()).toEqual([0, 1]);
    optimizer.dispose();
  });

  test('validates by steps and by epochs, each state once', async () => {
    const tensors = tf.memory().numTensors;
    const {evaluations, history} = await trainer.fit(EXAMPLES, {
      epochs: 2,
      batchSize: 2,
      validationData: EXAMPLES.slice(0, 3),
      evaluationSteps: 2,
      ...SILENT,
    });
    expect(evaluations.map(({step, tokens}) => [step, tokens])).toEqual([
      [2, 9],
      [4, 9],
      [6, 9],
      [8, 9],
    ]);
    expect(history.val_loss).toEqual([evaluations[1].loss, evaluations[3].loss]);
    trainer.compile(); // frees the first optimizer's state
    expect(tf.memory().numTensors).toBe(tensors);
  });

  test('reads lists, iterables, generators, async generators and tf.data.Dataset', async () => {
    const [first] = EXAMPLES;
    async function* later() {
      yield* EXAMPLES;
    }
    const anew = {[Symbol.iterator]: () => EXAMPLES[Symbol.iterator]()};
    const sources = [EXAMPLES, EXAMPLES.values(), later(), anew, tf.data.array(EXAMPLES as never)];
    for (const data of sources) {
      const {steps} = await trainer.fit(data as never, {batchSize: 4, ...SILENT});
      expect(steps.map(({tokens}) => tokens)).toEqual([12, 9]);
    }
    expect((await trainer.fit(anew, {batchSize: 4, epochs: 2, ...SILENT})).steps).toHaveLength(4);
    const tensors = tf.memory().numTensors;
    const asBatches = tf.data
      .generator(function* () {
        for (const {inputIds} of EXAMPLES) yield {inputIds, labels: inputIds} as never;
      })
      .batch(3);
    const {steps} = await trainer.fit(asBatches as never, {epochs: 2, ...SILENT});
    expect(steps.map(({tokens}) => tokens)).toEqual([9, 9, 3, 9, 9, 3]);
    expect(tf.memory().numTensors).toBe(tensors);
    expect(first.inputIds).toHaveLength(4);
  });

  test.each<[string, unknown, object, RegExp]>([
    ['an empty list', [], {}, /^fitDataset: expected at least one example, got an empty dataset/],
    ['an empty iterable', [].values(), {}, /expected at least one example/],
    ['no data', undefined, {}, /^fitDataset: expected a list of examples/],
    [
      'a generator for two epochs',
      EXAMPLES.values(),
      {epochs: 2},
      /expected data that can be read more than once/,
    ],
    [
      'a long example',
      [EXAMPLES[0], {inputIds: new Array(17).fill(1)}],
      {},
      /^example 1: .*at most 16 tokens.*17/,
    ],
    [
      'an unknown id',
      [EXAMPLES[0], {inputIds: [1, 6]}],
      {},
      /^example 1 inputIds: expected ids from 0 to 5, got 6/,
    ],
    ['nothing to learn', [{inputIds: [1, 2], labels: [2, -100]}], {}, /^example 0 labels: .*only -100/],
    ['no batch', EXAMPLES, {batchSize: 0}, /batchSize: expected a positive integer, got 0/],
    ['half an epoch', EXAMPLES, {epochs: 0.5}, /epochs: expected a positive integer/],
    [
      'a late start',
      EXAMPLES,
      {initialEpoch: 1},
      /initialEpoch: expected an integer ≥ 0 and below epochs \(1\)/,
    ],
    [
      'bad validation data',
      EXAMPLES,
      {validationData: [{inputIds: []}]},
      /^example 0 inputIds: .*empty list/,
    ],
  ])('refuses %s before any work', async (_what, data, args, message) => {
    await expect(trainer.fit(data as never, {...args, ...SILENT})).rejects.toThrow(message);
    expect(model.seen).toHaveLength(0);
    expect((await trainer.fit(EXAMPLES, {maxSteps: 1, ...SILENT})).steps).toHaveLength(1); // and may run again
  });

  test('runs once at a time', async () => {
    const first = trainer.fit(EXAMPLES, SILENT);
    await expect(trainer.fit(EXAMPLES, SILENT)).rejects.toMatchObject({code: 'UNSUPPORTED'});
    await first;
  });

  test('lets other work in between steps', async () => {
    let ticks = 0;
    const timer = setInterval(() => ticks++, 0);
    await trainer.fit(EXAMPLES, {epochs: 20, batchSize: 1, ...SILENT});
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(5);
  });
});

describe('evaluate', () => {
  test('returns the mean over labels and its exponential, and keeps no tensors', async () => {
    const data = [{inputIds: [1, 2, 3]}, {inputIds: [4, 5], labels: [-100, 5]}];
    const expected = (model.surprise(1, 2) + model.surprise(2, 3) + model.surprise(4, 5)) / 3;
    const before = tf.memory().numTensors;
    for (const batchSize of [1, 2]) {
      const {loss, perplexity, tokens} = await trainer.evaluate(data, {batchSize});
      expect(loss).toBeCloseTo(expected, 5);
      expect(perplexity).toBeCloseTo(Math.exp(expected), 4);
      expect(tokens).toBe(3);
    }
    expect(tf.memory().numTensors).toBe(before);
    await expect(trainer.evaluate([])).rejects.toThrow('evaluateDataset: expected at least one example');
  });
});
