import * as tf from '@tensorflow/tfjs';
import {replaceKernel} from '../../../../layers/kernels/replaceKernel.ts';
import {gradientFactor} from '../../../../layers/ops/gradientFactor.ts';
import {AdamW, AdamW8bit, Lion, Trainer} from '../../../../src/index.ts';
import {BigramModel} from '../../../src/training/bigramModel.ts';
import {describeWebGPU} from './webgpuOnly.ts';

const LONG = {inputIds: [[1, 2, 3, 4, 5]], labels: [[1, 2, 3, 4, 5]]};
const SHORT = {inputIds: [[4, 1]], labels: [[4, 1]]};
const WINDOWS = [[LONG], [SHORT, LONG], [SHORT], [LONG], [LONG, SHORT]];

const SETTINGS = {learningRate: 0.1, weightDecay: 0.1};
const OPTIMIZERS = {AdamW: () => new AdamW(SETTINGS), Lion: () => new Lion(SETTINGS)};
const NAMES = ['AdamW', 'Lion'] as const;

describeWebGPU('a step that is queued before its numbers are read', () => {
  /** Updates and reads, in order. */
  const events: string[] = [];
  /** Number of buffers at the first read. */
  let buffers = 0;
  const kernels: tf.KernelConfig[] = [];

  beforeAll(() => {
    for (const kernel of ['AdamWUpdates', 'LionUpdate'].map((name) => tf.getKernel(name, 'webgpu'))) {
      kernels.push(kernel);
      const kernelFunc: tf.KernelFunc = (call) => {
        events.push('update');
        return kernel.kernelFunc(call);
      };
      replaceKernel({...kernel, kernelFunc});
    }
    const {data} = tf.Tensor.prototype;
    jest.spyOn(tf.Tensor.prototype, 'data').mockImplementation(function (this: tf.Tensor) {
      if (!events.includes('read')) buffers = tf.memory().numDataBuffers;
      events.push('read');
      return data.call(this) as never;
    });
  });
  afterAll(() => {
    jest.restoreAllMocks();
    for (const kernel of kernels) replaceKernel(kernel);
  });

  function start(name: keyof typeof OPTIMIZERS, maxGradNorm?: number) {
    const [model, optimizer] = [new BigramModel(), OPTIMIZERS[name]()];
    const trainer = new Trainer(model);
    trainer.compile({optimizer, maxGradNorm, schedule: {name: 'cosine', totalSteps: 9}});
    const values = async () => [
      [...(await model.table.data())],
      ...(await Promise.all(optimizer.stateEntries().map(async ({read}) => [...(await read())]))),
    ];
    const dispose = () => {
      for (const each of [trainer, optimizer, model.table]) each.dispose();
    };
    return {model, optimizer, trainer, values, dispose};
  }

  /** Returns the steps' results, and the weights and state after them. */
  async function trained(name: keyof typeof OPTIMIZERS, isQueued: boolean, maxGradNorm?: number) {
    const {trainer, values, dispose} = start(name, maxGradNorm);
    if (!isQueued) trainer.onGradients = () => {};
    const results = [];
    let tensors = 0;
    for (const [i, batches] of WINDOWS.entries()) {
      events.length = 0;
      results.push(await trainer.trainOnBatch(batches));
      if (i === 1) tensors = tf.memory().numTensors;
    }
    expect(events.filter((event) => event === 'update')).toHaveLength(isQueued ? 1 : events.length - 2);
    expect(events[0]).toBe(isQueued ? 'update' : 'read');
    expect(tf.memory().numTensors).toBe(tensors);
    const atRead = buffers;
    const after = await values();
    dispose();
    return {results, after, atRead};
  }

  test.each(NAMES.flatMap((name) => [undefined, 0.05, 0.7, 100].map((maxGradNorm) => ({name, maxGradNorm}))))(
    'equals the step that waits, bit for bit: $name, clipped to $maxGradNorm',
    async ({name, maxGradNorm}) => {
      const queued = await trained(name, true, maxGradNorm);
      const waited = await trained(name, false, maxGradNorm);
      expect(queued.results).toEqual(waited.results);
      expect(queued.after).toEqual(waited.after);
      expect(queued.atRead).toBe(waited.atRead + 1); // the factor, but no second copy of weights and state
    },
  );

  test.each(NAMES)('changes nothing when they are not finite, and continues: %s', async (name) => {
    const {model, optimizer, trainer, values, dispose} = start(name, 0.5);
    await trainer.trainOnBatch(LONG);
    const [before, tensors] = [await values(), tf.memory().numTensors];
    for (const spoilt of [Number.NaN, Number.POSITIVE_INFINITY]) {
      model.spoil = (call) => (call % 2 === 0 ? spoilt : 1);
      await expect(trainer.trainOnBatch([LONG, SHORT])).rejects.toMatchObject({code: 'NON_FINITE'});
      expect(await values()).toEqual(before);
      expect([optimizer.iterations, trainer.steps, tf.memory().numTensors]).toEqual([1, 1, tensors]);
    }
    model.spoil = undefined;
    await trainer.trainOnBatch(LONG);
    expect([optimizer.iterations, trainer.steps]).toEqual([2, 2]);
    expect(await values()).not.toEqual(before);
    dispose();
  });

  test.each(NAMES)('counts if the device took it though the host could not read: %s', async (name) => {
    const {model, optimizer, trainer, values, dispose} = start(name);
    await trainer.trainOnBatch(LONG);
    const tensors = tf.memory().numTensors;
    let before = await values();
    for (const isTaken of [true, false]) {
      model.spoil = () => (isTaken ? 1 : Number.NaN);
      jest.mocked(tf.Tensor.prototype.data).mockRejectedValueOnce(new Error('no memory to map'));
      await expect(trainer.trainOnBatch(LONG)).rejects.toThrow('no memory to map');
      expect([optimizer.iterations, trainer.steps, tf.memory().numTensors]).toEqual([2, 1, tensors]);
      const after = await values();
      if (isTaken) expect(after).not.toEqual(before);
      else expect(after).toEqual(before);
      before = after;
    }
    model.spoil = undefined;
    await trainer.trainOnBatch(LONG);
    expect([optimizer.iterations, trainer.steps]).toEqual([3, 2]);
    dispose();
  });

  test.each(NAMES)('goes on from saved state, bit for bit: %s', async (name) => {
    const expected = await trained(name, true, 0.7);
    const first = start(name, 0.7);
    for (const batches of WINDOWS.slice(0, 2)) await first.trainer.trainOnBatch(batches);
    const [weights, ...states] = await first.values();
    const entries = first.optimizer.stateEntries().map((entry, i) => ({
      ...entry,
      read: () => Float32Array.from(states[i]),
    }));
    first.dispose();
    const second = start(name, 0.7);
    const {table} = second.model;
    tf.tidy(() => table.assign(tf.tensor(weights, table.shape)));
    await second.optimizer.setState(2, entries);
    second.trainer.steps = 2;
    for (const batches of WINDOWS.slice(2)) await second.trainer.trainOnBatch(batches);
    expect(await second.values()).toEqual(expected.after);
    second.dispose();
  });

  test('waits with kernels that cannot, and with subclasses that compute their own update', () => {
    class Own extends AdamW {
      protected override updateMany(): [tf.Tensor, ...tf.Tensor[]][] {
        return [];
      }
    }
    expect(new AdamW().preparesSteps).toBe('inPlace');
    expect(new Own().preparesSteps).toBeUndefined();
    expect(new AdamW8bit().preparesSteps).toBeUndefined();
  });

  test('the factor is the one that the host computes, rounded to float32', async () => {
    const exponents = [-30, -21, -20, -19, -3, 0, 1, 9, 100];
    const norms = exponents.flatMap((exponent, i) =>
      [0, 0.1, 0.7, 0.99999].map((part, j) => Math.fround((1 + part) * 2 ** exponent * (1 + 1e-3 * i * j))),
    );
    for (const maxNorm of [1e-9, 0.05, 0.3, 1, 5.5, 2 ** 60]) {
      const factors = norms.map((norm) =>
        tf.tidy(() => gradientFactor(tf.tensor1d([norm, 3]), maxNorm).reshape([1])),
      );
      const all = tf.concat(factors);
      const expected = norms.map((norm) => {
        const factor = Math.fround(Math.min(1, maxNorm / (norm + 1e-6)));
        return factor < 2 ** -126 ? 0 : factor;
      });
      expect([...(await all.data())]).toEqual(expected);
      tf.dispose([factors, all] as tf.TensorContainer);
    }
    const of = async (numbers: number[], maxNorm?: number) => {
      const factor = tf.tidy(() => gradientFactor(tf.tensor1d(numbers), maxNorm));
      const [value] = await factor.data();
      factor.dispose();
      return value;
    };
    expect(await of([7, 1])).toBe(1);
    expect(await of([7, 1], Number.POSITIVE_INFINITY)).toBe(1);
    expect(await of([0, 1], 1e-8)).toBe(Math.fround(1e-8 / 1e-6));
    for (const wrong of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
      for (const numbers of [
        [wrong, 1],
        [1, 2, wrong],
      ])
        expect(await of(numbers, 1)).toBe(-1);
  });
});
