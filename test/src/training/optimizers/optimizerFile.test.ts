import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {SafetensorsFile, writeSafetensors} from '../../../../quant/index.ts';
import {AdamW, AdamW8bit, loadOptimizer, PagedAdamW, saveOptimizer} from '../../../../src/index.ts';
import {describeEachBackend, expectNoLeak} from '../../../describeEachBackend.ts';
import {temporaryFolder} from '../../../quant/safetensors/temporaryFolder.ts';
import {
  EVERY_OPTIMIZER,
  MIN_8BIT_SIZE,
  makeOptimizer,
  makeWeights,
  runSteps,
  valuesOf,
} from './everyOptimizer.ts';

const folder = temporaryFolder();
const path = (name: string) => join(folder, name);
const ARGS = {learningRate: 0.01, min8bitSize: MIN_8BIT_SIZE};

/** Ours and TensorFlow.js's own. */
const MAKERS: [string, () => tf.Optimizer][] = [
  ...Object.entries(EVERY_OPTIMIZER).map(([name, Optimizer]): [string, () => tf.Optimizer] => [
    name,
    () => makeOptimizer(Optimizer, ARGS),
  ]),
  ['tf.train.adam', () => tf.train.adam(0.01)],
  ['tf.train.momentum', () => tf.train.momentum(0.01, 0.9)],
  ['tf.train.sgd', () => tf.train.sgd(0.01)],
];

describeEachBackend('optimizer files', (backend) => {
  let weights: tf.Variable[] = [];
  afterEach(() => {
    tf.dispose(weights);
    weights = [];
  });

  test.each(MAKERS)('%s continues from its file exactly as it would have', async (name, make) => {
    const file = path(`${backend}-${name}.safetensors`);
    weights = makeWeights();
    const whole = make();
    runSteps(whole, 0, 3);
    await saveOptimizer(whole, file);
    const saved = weights.map((weight) => weight.clone());
    runSteps(whole, 3, 5);
    const expected = await valuesOf(weights);
    whole.dispose();

    for (const [i, weight] of weights.entries()) weight.assign(saved[i]);
    const resumed = make();
    await loadOptimizer(resumed, file);
    expect(resumed.iterations).toBe(3);
    runSteps(resumed, 3, 5);
    expect(await valuesOf(weights)).toEqual(expected);
    resumed.dispose();
    tf.dispose(saved);
  });

  test('saving and loading keep no tensors', async () => {
    weights = makeWeights();
    for (const Optimizer of [AdamW, PagedAdamW]) {
      const optimizer = makeOptimizer(Optimizer, ARGS);
      runSteps(optimizer, 0, 1);
      const file = path(`${backend}-leak.safetensors`);
      await expectNoLeak(() => saveOptimizer(optimizer, file));
      await expectNoLeak(() => loadOptimizer(optimizer, file));
      optimizer.dispose();
    }
  });
});

describe('an optimizer file', () => {
  let weights: tf.Variable[] = [];
  beforeAll(() => tf.setBackend('cpu'));
  beforeEach(() => {
    weights = makeWeights();
  });
  afterEach(() => tf.dispose(weights));

  test('of AdamW suits PagedAdamW, and the reverse', async () => {
    for (const [First, Second] of [
      [AdamW, PagedAdamW],
      [PagedAdamW, AdamW],
    ]) {
      const first = makeOptimizer(First, ARGS);
      runSteps(first, 0, 2);
      await saveOptimizer(first, path('a'));
      const second = makeOptimizer(Second, ARGS);
      await loadOptimizer(second, path('a'));
      await saveOptimizer(second, path('b'));
      const [a, b] = ['a', 'b'].map((name) => SafetensorsFile.open(path(name)));
      expect([...b.tensors]).toEqual([...a.tensors]);
      for (const name of a.names()) expect(b.read(name)).toEqual(a.read(name));
      expect([a, b].map(({metadata}) => metadata.optimizer)).toEqual(
        [First, Second].map(({className}) => className),
      );
      expect(JSON.parse(a.metadata.config)).toMatchObject({learningRate: 0.01});
      for (const open of [a, b]) open.close();
      first.dispose();
      second.dispose();
    }
  });

  test('that does not fit is refused, and the optimizer keeps its state', async () => {
    const [from, to] = [makeOptimizer(AdamW, ARGS), makeOptimizer(AdamW8bit, ARGS)];
    runSteps(from, 0, 2);
    await saveOptimizer(from, path('32bit'));
    runSteps(to, 0, 1);
    const state = async () => Promise.all(to.stateEntries().map(async ({read}) => Array.from(await read())));
    const before = await state();

    await expect(loadOptimizer(to, path('32bit'))).rejects.toMatchObject({
      code: 'MISSING_TENSOR',
      message:
        'optimizer weight "w/first/mean.codes": expected all of the variable\'s state, got only mean, variance',
    });
    const adam = tf.train.adam(0.1);
    await expect(loadOptimizer(adam, path('32bit'))).rejects.toThrow(
      'expected the state of Adam, got that of AdamW',
    );
    await expect(loadOptimizer(to, path('nowhere'))).rejects.toMatchObject({code: 'FILE_NOT_FOUND'});

    const iter = {name: 'iter', dtype: 'I32', shape: [], data: Int32Array.of(1)} as const;
    const mean = {name: 'v/mean', dtype: 'F32', shape: [1], data: Float32Array.of(1)} as const;
    for (const [tensors, metadata, got] of [
      [[iter], {}, 'a file without its metadata'],
      [[mean], {order: '["v/mean"]'}, 'a file without its metadata'],
      [[iter, mean], {order: '[]'}, 'tensors that differ from its list'],
      [[iter, mean], {order: '{}'}, 'tensors that differ from its list'],
      [[iter, mean], {order: '['}, 'a list of tensors that is not JSON'],
      [[iter, {...mean, dtype: 'F16', data: Uint16Array.of(1)}], {order: '["v/mean"]'}, 'v/mean in F16'],
    ] as [Parameters<typeof writeSafetensors>[1], Record<string, string>, string][]) {
      await writeSafetensors(path('odd'), tensors, metadata);
      await expect(loadOptimizer(to, path('odd'))).rejects.toMatchObject({
        code: 'CORRUPT_FILE',
        message: `optimizer file [${path('odd')}]: expected a file from saveOptimizer, got ${got}`,
      });
    }
    expect(await state()).toEqual(before);
    expect(to.iterations).toBe(1);
    runSteps(to, 1, 2);
    for (const optimizer of [from, to, adam]) optimizer.dispose();
  });

  test('restores the state of a variable that does not exist yet, and checks it later', async () => {
    const first = makeOptimizer(AdamW, ARGS);
    runSteps(first, 0, 2);
    await saveOptimizer(first, path('early'));
    tf.dispose(weights);
    const second = makeOptimizer(AdamW, ARGS);
    await loadOptimizer(second, path('early'));
    weights = [tf.tidy(() => tf.zeros([3]).variable(true, 'w/first'))];
    tf.tidy(() =>
      expect(() => second.applyGradients({'w/first': tf.ones([3])})).toThrow(
        'optimizer state "w/first/mean": expected [3] to fit its variable, got [20,33]',
      ),
    );
    tf.dispose(weights);
    weights = makeWeights();
    runSteps(second, 2, 3);
    expect(second.iterations).toBe(3);
    first.dispose();
    second.dispose();
  });
});
