import * as tf from '@tensorflow/tfjs';
import {NamedStateOptimizer} from '../../../../src/training/optimizers/index.ts';
import {describeEachBackend, expectNoLeak} from '../../../describeEachBackend.ts';
import {
  EVERY_OPTIMIZER,
  gradientsAt,
  MIN_8BIT_SIZE,
  makeOptimizer,
  makeWeights,
  type OptimizerClass,
  runSteps,
  valuesOf,
} from './everyOptimizer.ts';

const ALL = Object.entries(EVERY_OPTIMIZER);
const ARGS = {learningRate: 0.01, min8bitSize: MIN_8BIT_SIZE, weightDecay: 0.1};

describeEachBackend('every optimizer', () => {
  test.each(ALL)('%s keeps no tensors but its state, and frees it', async (_, Optimizer) => {
    await expectNoLeak(async () => {
      const weights = makeWeights();
      const before = tf.memory().numTensors;
      const optimizer = makeOptimizer(Optimizer, ARGS);
      runSteps(optimizer, 0, 2);
      const entries = optimizer.isPaged ? 0 : optimizer.stateEntries().length;
      expect(tf.memory().numTensors - before).toBe(entries);
      const gradients = gradientsAt(2);
      await optimizer.applyGradientsAsync(gradients);
      expect(tf.memory().numTensors - before).toBe(entries + weights.length);
      expect(optimizer.iterations).toBe(3);
      optimizer.dispose();
      expect(tf.memory().numTensors - before).toBe(weights.length);
      tf.dispose([weights, gradients] as tf.TensorContainer);
    });
  });

  test.each(ALL)('%s continues from getWeights() as if it had never stopped', async (_, Optimizer) => {
    const whole = await run(Optimizer, async (optimizer) => runSteps(optimizer, 0, 5));
    const resumed = await run(Optimizer, async (optimizer) => {
      const first = makeOptimizer(Optimizer, ARGS);
      runSteps(first, 0, 3);
      const [count, ...state] = await first.getWeights();
      await optimizer.setWeights([count, ...state.reverse()]);
      count.tensor.dispose();
      first.dispose();
      runSteps(optimizer, 3, 5);
    });
    expect(resumed).toEqual(whole);
  });

  test.each(ALL)('%s changes nothing when a step cannot begin', async (_, Optimizer) => {
    const weights = makeWeights();
    const optimizer = makeOptimizer(Optimizer, ARGS);
    const before = await valuesOf(weights);
    const tensors = tf.memory().numTensors;
    tf.tidy(() => {
      const gradients = gradientsAt(0);
      expect(() => optimizer.applyGradients({...gradients, 'w/last': tf.ones([3])})).toThrow(
        'optimizer gradient "w/last": expected [40,10] to fit its variable, got [3]',
      );
      expect(() => optimizer.applyGradients({...gradients, nowhere: tf.ones([3])})).toThrow('"nowhere"');
    });
    expect(await valuesOf(weights)).toEqual(before);
    expect([tf.memory().numTensors, optimizer.iterations]).toEqual([tensors, 0]);
    expect(optimizer.stateEntries()).toEqual([]);
    tf.dispose(weights);
  });

  test.each(ALL)('%s trains a Keras model', async (_, Optimizer) => {
    const model = tf.sequential({
      layers: [tf.layers.dense({units: 1, inputShape: [2], kernelInitializer: 'zeros'})],
    });
    const optimizer = makeOptimizer(Optimizer, {learningRate: 0.1, min8bitSize: 2, weightDecay: 0});
    model.compile({optimizer, loss: 'meanSquaredError'});
    const x = tf.tensor2d([0, 0, 0, 1, 1, 0, 1, 1], [4, 2]);
    const y = tf.tensor2d([1, -1, 3, 1], [4, 1]); // 1 + 2a − 2b
    const {history} = await model.fit(x, y, {epochs: 60, batchSize: 4, verbose: 0});
    expect(history.loss[0]).toBeCloseTo(3, 5);
    expect(history.loss.at(-1)).toBeLessThan(0.1);
    model.dispose();
    optimizer.dispose();
    tf.dispose([x, y]);
  });
});

async function run(
  Optimizer: OptimizerClass,
  steps: (optimizer: InstanceType<OptimizerClass>) => Promise<void>,
): Promise<number[][]> {
  const weights = makeWeights();
  const optimizer = makeOptimizer(Optimizer, ARGS);
  await steps(optimizer);
  const values = await valuesOf(weights);
  optimizer.dispose();
  tf.dispose(weights);
  return values;
}

describe('settings of every optimizer', () => {
  test.each(ALL)('%s survives a round trip through its config', (name, Optimizer) => {
    const isPaged = name.startsWith('Paged');
    const given = {
      learningRate: 3e-4,
      beta1: 0.8,
      beta2: 0.95,
      weightDecay: 0.2,
      excludeFromWeightDecay: ['bias', /norm.*$/i],
      learningRateFactors: [[/head/, 0.1]],
      loraPlusRatio: 16,
      ...(name.includes('AdamW') && {epsilon: 1e-6}),
      ...(name.includes('8bit') && {min8bitSize: 512}),
      ...(isPaged && {deviceBudgetBytes: 12345}),
    };
    const config = JSON.parse(JSON.stringify(new Optimizer(given).getConfig()));
    expect(Object.keys(config).sort()).toEqual(Object.keys(given).sort());
    const [Class, fromConfig] = tf.serialization.SerializationMap.getMap().classNameMap[name];
    expect(Class).toBe(Optimizer);
    const again = fromConfig(Class as never, config) as InstanceType<OptimizerClass>;
    expect(again.getConfig()).toEqual(new Optimizer(given).getConfig());
    expect(again.isPaged).toBe(isPaged);
    expect(new Optimizer().getConfig()).toEqual(
      (fromConfig(Class as never, new Optimizer().getConfig()) as tf.Optimizer).getConfig(),
    );
  });

  test.each(ALL)('%s refuses impossible settings under its own name', (name, Optimizer) => {
    expect(() => new Optimizer({learningRate: -1})).toThrow(
      `${name} learningRate: expected a number from 0, got -1`,
    );
    expect(() => new Optimizer({loraPlusRatio: Number.NaN})).toThrow(`${name} loraPlusRatio`);
    if (name.includes('8bit')) expect(() => new Optimizer({min8bitSize: -1})).toThrow(`${name} min8bitSize`);
    if (!name.startsWith('Paged')) return;
    expect(() => new Optimizer({deviceBudgetBytes: 0})).toThrow(
      'deviceBudgetBytes: expected a number above 0, got 0',
    );
  });

  test.each(ALL)('%s is recognized by instanceof', (name, Optimizer) => {
    const optimizer: tf.Optimizer = new Optimizer();
    expect(optimizer).toBeInstanceOf(tf.Optimizer);
    expect(optimizer).toBeInstanceOf(NamedStateOptimizer);
    const kinds = ALL.filter(([, Other]) => optimizer instanceof Other).map(([kind]) => kind);
    expect(kinds).toEqual(
      Object.keys(EVERY_OPTIMIZER).filter(
        (kind) => name.replace('Paged', '').startsWith(kind) || kind === name,
      ),
    );
    expect(tf.train.adam(0.1) instanceof NamedStateOptimizer).toBe(false);
  });

  test('an invalid factor is refused', () => {
    const args = {learningRateFactors: [['head', -1]]} as object;
    expect(() => new EVERY_OPTIMIZER.AdamW(args)).toThrow(
      'AdamW learningRateFactors head: expected a number from 0, got -1',
    );
  });
});
