import * as tf from '@tensorflow/tfjs';
import {replaceKernel} from '../../../layers/kernels/replaceKernel.ts';
import {
  type OptimizerRule,
  type OptimizerTensors,
  optimizerUpdates,
  optimizerUpdatesOp,
} from '../../../layers/ops/optimizerUpdates.ts';
import {AdamW, AdamW8bit, Lion, Lion8bit, PagedAdamW, Trainer, useBackend} from '../../../src/index.ts';
import {BigramModel} from './bigramModel.ts';

const STATES = {AdamW: 2, AdamW8bit: 4, Lion: 1, Lion8bit: 2};
const {kernelName} = optimizerUpdatesOp;

/** Updates and reads, in order. */
const events: string[] = [];

/** Registers the composed reference as a kernel of the backend `cpu`, as a card has one. */
const kernel: tf.KernelConfig = {
  kernelName,
  backendName: 'cpu',
  kernelFunc: ({inputs, attrs}) => {
    events.push('update');
    const {maxNorm, ...rule} = attrs as unknown as OptimizerRule & {maxNorm?: number};
    const given = Object.values(inputs) as unknown as tf.Tensor[];
    const clipping = maxNorm === undefined ? undefined : {norm: given.pop() as tf.Scalar, maxNorm};
    const taken = 2 + STATES[rule.rule];
    const updates = Array.from({length: given.length / taken}, (_, i): OptimizerTensors => {
      const [value, gradient, ...state] = given.slice(taken * i, taken * (i + 1));
      return {value, gradient, state};
    });
    tf.unregisterKernel(kernelName, 'cpu');
    try {
      return optimizerUpdates(updates, rule, clipping).flat();
    } finally {
      replaceKernel(kernel);
    }
  },
};

const LONG = {inputIds: [[1, 2, 3, 4, 5]], labels: [[1, 2, 3, 4, 5]]};
const SHORT = {inputIds: [[4, 1]], labels: [[4, 1]]};

describe('a step whose update is computed before its numbers are read', () => {
  beforeAll(async () => {
    await useBackend('cpu');
    const {data} = tf.Tensor.prototype;
    jest.spyOn(tf.Tensor.prototype, 'data').mockImplementation(function (this: tf.Tensor) {
      events.push('read');
      return data.call(this) as never;
    });
  });
  afterAll(() => jest.restoreAllMocks());
  beforeEach(() => replaceKernel(kernel));
  afterEach(() => {
    if (tf.getKernel(kernelName, 'cpu')) tf.unregisterKernel(kernelName, 'cpu');
  });

  const args = {learningRate: 0.1, weightDecay: 0.1, min8bitSize: 0};
  const OPTIMIZERS = {
    AdamW: () => new AdamW({learningRate: 0.1, weightDecay: 0.1}),
    AdamW8bit: () => new AdamW8bit(args),
    Lion: () => new Lion({learningRate: 0.1, weightDecay: 0.1}),
    Lion8bit: () => new Lion8bit(args),
  };

  /** Returns losses, norms, rates and the weights after some steps. */
  async function trained(name: keyof typeof OPTIMIZERS, maxGradNorm?: number) {
    const [model, optimizer] = [new BigramModel(), OPTIMIZERS[name]()];
    const trainer = new Trainer(model);
    trainer.compile({optimizer, maxGradNorm, schedule: {name: 'cosine', totalSteps: 9}});
    const results = [];
    let tensors = 0;
    for (const batches of [[LONG], [SHORT, LONG], [SHORT]]) {
      events.length = 0;
      results.push(await trainer.trainOnBatch(batches));
      if (results.length === 2) tensors = tf.memory().numTensors;
    }
    expect(tf.memory().numTensors).toBe(tensors);
    const weights = model.table.dataSync().slice();
    trainer.dispose();
    optimizer.dispose();
    model.table.dispose();
    return {results, weights};
  }

  test.each(
    (['AdamW', 'AdamW8bit', 'Lion', 'Lion8bit'] as const).flatMap((name) =>
      [undefined, 0.05, 100].map((maxGradNorm) => ({name, maxGradNorm})),
    ),
  )('is the step as it was: $name, clipped to $maxGradNorm', async ({name, maxGradNorm}) => {
    const got = await trained(name, maxGradNorm);
    expect(events).toEqual(['update', 'read']);
    tf.unregisterKernel(kernelName, 'cpu');
    const expected = await trained(name, maxGradNorm);
    expect(events).not.toContain('update');
    for (const [i, {loss, gradNorm, learningRate}] of expected.results.entries()) {
      expect(got.results[i].loss).toBeCloseTo(loss, 5);
      expect(got.results[i].gradNorm).toBeCloseTo(gradNorm, 5);
      expect(got.results[i].learningRate).toBe(learningRate);
    }
    for (const [i, value] of expected.weights.entries()) expect(got.weights[i]).toBeCloseTo(value, 4);
  });

  test('changes nothing when they are not finite, and continues', async () => {
    for (const make of Object.values(OPTIMIZERS)) {
      const [model, optimizer] = [new BigramModel(), make()];
      const trainer = new Trainer(model);
      trainer.compile({optimizer});
      model.spoil = (call) => (call === 1 ? Number.NaN : 1);
      await trainer.trainOnBatch(LONG);
      const states = () => Promise.all(optimizer.stateEntries().map(async ({read}) => [...(await read())]));
      const [weights, before, tensors] = [
        model.table.dataSync().slice(),
        await states(),
        tf.memory().numTensors,
      ];
      await expect(trainer.trainOnBatch(LONG)).rejects.toMatchObject({code: 'NON_FINITE'});
      expect(model.table.dataSync()).toEqual(weights);
      expect(await states()).toEqual(before);
      expect([optimizer.iterations, trainer.steps, tf.memory().numTensors]).toEqual([1, 1, tensors]);
      await trainer.trainOnBatch(LONG);
      expect([optimizer.iterations, trainer.steps]).toEqual([2, 2]);
      trainer.dispose();
      optimizer.dispose();
      model.table.dispose();
    }
  });

  test('is not observed by a function that is set while it runs', async () => {
    const [model, optimizer, observe] = [new BigramModel(), new AdamW(), jest.fn()];
    const trainer = new Trainer(model);
    trainer.compile({optimizer});
    const {data} = tf.Tensor.prototype;
    jest.spyOn(tf.Tensor.prototype, 'data').mockImplementationOnce(function (this: tf.Tensor) {
      trainer.onGradients = observe;
      return data.call(this) as never;
    });
    await trainer.trainOnBatch(LONG);
    expect(observe).not.toHaveBeenCalled(); // the update is computed already
    await trainer.trainOnBatch(LONG);
    expect(observe).toHaveBeenCalledTimes(1);
    for (const each of [trainer, optimizer]) each.dispose();
    model.table.dispose();
  });

  test('waits when gradients are observed or states are paged, and ends with an error', async () => {
    const model = new BigramModel();
    const trainer = new Trainer(model);
    const optimizer = new AdamW();
    trainer.compile({optimizer});
    trainer.onGradients = () => {};
    events.length = 0;
    await trainer.trainOnBatch(LONG);
    expect(events.slice(0, 2)).toEqual(['read', 'read']);
    trainer.onGradients = undefined;
    const {data} = tf.Tensor.prototype;
    jest.spyOn(tf.Tensor.prototype, 'data').mockRejectedValueOnce(new Error('the card is gone'));
    const tensors = tf.memory().numTensors;
    await expect(trainer.trainOnBatch(LONG)).rejects.toThrow('the card is gone');
    expect(tf.memory().numTensors).toBe(tensors);
    tf.Tensor.prototype.data = data;
    await trainer.trainOnBatch(LONG);
    expect(optimizer.iterations).toBe(2);
    const paged = new PagedAdamW();
    trainer.compile({optimizer: paged});
    events.length = 0;
    await trainer.trainOnBatch(LONG);
    expect(events[0]).toBe('read');
    for (const each of [optimizer, paged, trainer]) each.dispose();
    model.table.dispose();
  });
});
