import * as tf from '@tensorflow/tfjs';
import {AdamW, PagedAdamW, PagedAdamW8bit, TrainingStep} from '../../../../src/index.ts';
import type {StateEntry} from '../../../../src/training/optimizers/index.ts';
import {describeEachBackend, expectNoLeak} from '../../../describeEachBackend.ts';
import {BigramModel} from '../bigramModel.ts';
import {DeviceBackend} from './deviceBackend.ts';
import {
  EVERY_OPTIMIZER,
  gradientsAt,
  MIN_8BIT_SIZE,
  makeOptimizer,
  makeWeights,
  type OptimizerClass,
  PAGED,
  runSteps,
  valuesOf,
} from './everyOptimizer.ts';

const ARGS = {learningRate: 0.01, min8bitSize: MIN_8BIT_SIZE, weightDecay: 0.1};
/** The largest variable's AdamW state, mean and variance of [20, 33]. */
const LARGEST = 2 * 4 * 660;

/** Returns weights and state after some steps, and the bytes on the device between them. */
async function outcome(
  Optimizer: OptimizerClass,
  args: object,
  runs: (optimizer: Stepping) => Promise<void>,
) {
  const weights = makeWeights();
  const optimizer = makeOptimizer(Optimizer, {...ARGS, ...args});
  await runs(optimizer);
  const state = await Promise.all(
    optimizer.stateEntries().map(async ({name, read}) => [name, Array.from(await read())]),
  );
  const result = {weights: await valuesOf(weights), state};
  optimizer.dispose();
  tf.dispose(weights);
  return result;
}

type Stepping = InstanceType<OptimizerClass>;

async function stepAsync(optimizer: Stepping, from: number, to: number): Promise<void> {
  for (let step = from; step < to; step++) {
    const gradients = gradientsAt(step);
    await optimizer.applyGradientsAsync(gradients);
    tf.dispose(gradients);
  }
}

describeEachBackend('paged optimizers', () => {
  test.each(PAGED)(
    '%s: weights and state are identical to those of the unpaged',
    async (_, Paged, Unpaged) => {
      const expected = await outcome(Unpaged, {}, async (optimizer) => runSteps(optimizer, 0, 6));
      for (const deviceBudgetBytes of [undefined, 2 * LARGEST, 3 * LARGEST]) {
        const paged = await outcome(Paged, {deviceBudgetBytes}, async (optimizer) => {
          runSteps(optimizer, 0, 3);
          await stepAsync(optimizer, 3, 6);
        });
        expect(paged).toEqual(expected);
      }
    },
  );

  test('clipping, schedule and window of a training step do not change that', async () => {
    const tables = [];
    for (const Optimizer of [AdamW, PagedAdamW]) {
      const model = new BigramModel();
      const step = new TrainingStep(model);
      const optimizer = new Optimizer({learningRate: 0.1});
      const batch = {inputIds: [[1, 2, 3, 4]], labels: [[1, 2, 3, 4]]};
      step.compile({optimizer, maxGradNorm: 0.1, schedule: {name: 'linear', totalSteps: 5}});
      for (let i = 0; i < 3; i++)
        expect((await step.trainOnBatch([batch, batch])).gradNorm).toBeGreaterThan(0.1);
      expect(optimizer.learningRate).toBe(0.1);
      tables.push(await valuesOf([model.table]));
      optimizer.dispose();
      model.table.dispose();
    }
    expect(tables[1]).toEqual(tables[0]);
  });

  test('state that getWeights() lent out leaves the device with flush() or the next step', async () => {
    const weights = makeWeights();
    const optimizer = makeOptimizer(PagedAdamW, ARGS);
    runSteps(optimizer, 0, 1);
    const before = tf.memory().numTensors;
    const [count, ...state] = await optimizer.getWeights();
    expect(tf.memory().numTensors - before).toBe(1 + 2 * weights.length);
    expect(state.map(({name}) => name)).toContain('w/first/variance');
    count.tensor.dispose();
    await optimizer.flush();
    expect(tf.memory().numTensors).toBe(before);
    (await optimizer.getWeights())[0].tensor.dispose();
    runSteps(optimizer, 1, 2);
    expect(tf.memory().numTensors).toBe(before);
    optimizer.dispose();
    tf.dispose(weights);
  });
});

describe('a device of limited memory', () => {
  const SIZE = 64;
  const LAYERS = 6;
  const WEIGHT_BYTES = 4 * SIZE * SIZE;

  /** Full fine-tuning of a stack of square layers. */
  function makeModel() {
    const layers = Array.from({length: LAYERS}, (_, i) => {
      const values = Float32Array.from({length: SIZE * SIZE}, (_, j) => Math.sin(j * (i + 1)) / SIZE);
      return tf.tidy(() => tf.tensor2d(values, [SIZE, SIZE]).variable(true, `layer${i}`));
    });
    const x = tf.tensor2d(
      Float32Array.from({length: SIZE}, (_, i) => Math.cos(i)),
      [1, SIZE],
    );
    const loss = () =>
      layers
        .reduce<tf.Tensor>(
          (h, layer) => tf.matMul(h as tf.Tensor2D, layer as tf.Tensor as tf.Tensor2D).tanh(),
          x,
        )
        .sub(1)
        .square()
        .mean() as tf.Scalar;
    return {layers, x, loss, dispose: () => tf.dispose([layers, x])};
  }

  async function train(optimizer: tf.Optimizer, device: DeviceBackend) {
    const {layers, loss, dispose} = makeModel();
    const runStep = () => {
      tf.tidy(() => void optimizer.minimize(loss)); // tidied for the gradients of a step that fails
    };
    try {
      runStep();
      const between = tf.memory().numBytes;
      device.peakBytes = 0;
      for (let step = 0; step < 3; step++) runStep();
      return {weights: await valuesOf(layers), between, peak: device.peakBytes};
    } finally {
      optimizer.dispose();
      dispose();
    }
  }

  test('trains paged when unpaged fails, with the same weights; peaks differ by the state', async () => {
    const device = await DeviceBackend.use('device');
    const unpaged = await train(new AdamW(), device);
    const paged = await train(new PagedAdamW({deviceBudgetBytes: 4 * WEIGHT_BYTES}), device);
    expect(paged.weights).toEqual(unpaged.weights);
    expect(unpaged.between - paged.between).toBe(2 * LAYERS * WEIGHT_BYTES); // all of mean and variance
    // Of state, the unpaged has all at its peak and one variable's next; the paged has its budget at most.
    expect(unpaged.peak - paged.peak).toBeGreaterThanOrEqual((2 * LAYERS + 2 - 4) * WEIGHT_BYTES);

    device.limitBytes = (unpaged.peak + paged.peak) / 2;
    await expect(train(new AdamW(), device)).rejects.toThrow('device: out of memory');
    const squeezed = await train(new PagedAdamW({deviceBudgetBytes: 4 * WEIGHT_BYTES}), device);
    expect(squeezed.weights).toEqual(unpaged.weights);
    expect(device.bytes).toBe(0);
  });

  test('never holds more state than the budget', async () => {
    const device = await DeviceBackend.use('budgeted');
    const weights = makeWeights();
    const gradients = gradientsAt(0);
    const without = device.bytes;
    for (const [Paged, budget] of [
      [PagedAdamW, 2 * LARGEST],
      [PagedAdamW, 3 * LARGEST],
      [PagedAdamW8bit, 6000],
    ] as const) {
      const optimizer = makeOptimizer(Paged, {...ARGS, deviceBudgetBytes: budget});
      device.peakBytes = 0;
      optimizer.applyGradients(gradients);
      await optimizer.applyGradientsAsync(gradients);
      const value = 4 * 660; // the next value beside the old
      expect(device.peakBytes - without).toBeLessThanOrEqual(budget + value);
      expect(device.peakBytes - without).toBeGreaterThan(0);
      optimizer.dispose();
    }
    tf.dispose([weights, gradients] as tf.TensorContainer);
  });

  test('loads the next group of states before it updates the current one, if both fit', async () => {
    const device = await DeviceBackend.use('prefetching');
    const names = ['a', 'b', 'c'];
    const weights = names.map((name) => tf.tidy(() => tf.zeros([100]).variable(true, name)));
    const gradients = Object.fromEntries(names.map((name) => [name, tf.ones([100])]));
    const peakWith = (deviceBudgetBytes: number) => {
      const optimizer = new PagedAdamW({deviceBudgetBytes});
      const before = device.bytes;
      device.peakBytes = 0;
      optimizer.applyGradients(gradients);
      optimizer.dispose();
      return device.peakBytes - before;
    };
    const state = 800; // bytes of one variable's
    expect(peakWith(2 * state)).toBe(2 * state + 400); // old and next state, and the next value
    expect(peakWith(3 * state)).toBe(3 * state + 400);
    tf.dispose([weights, gradients] as tf.TensorContainer);
  });

  test('refuses a budget below one variable, before anything changes', async () => {
    await DeviceBackend.use('tight');
    const weights = makeWeights();
    const before = await valuesOf(weights);
    const optimizer = new PagedAdamW({deviceBudgetBytes: 2 * LARGEST - 1});
    const tensors = tf.memory().numTensors;
    expect(() => runSteps(optimizer, 0, 1)).toThrow(
      `paged optimizer deviceBudgetBytes: expected at least ${2 * LARGEST}, the largest variable's state before and ` +
        `after its update, got ${2 * LARGEST - 1}`,
    );
    expect([tf.memory().numTensors, optimizer.iterations]).toEqual([tensors, 0]);
    expect(await valuesOf(weights)).toEqual(before);
    tf.dispose(weights);
  });

  test('a device that fills up within a step leaves the optimizer usable and nothing behind', async () => {
    const device = await DeviceBackend.use('full');
    const weights = makeWeights();
    const gradients = gradientsAt(0);
    const optimizer = makeOptimizer(PagedAdamW, {...ARGS, deviceBudgetBytes: 2 * LARGEST});
    optimizer.applyGradients(gradients);
    const before = tf.memory().numTensors;
    device.limitBytes = device.bytes + LARGEST;
    expect(() => optimizer.applyGradients(gradients)).toThrow('device: out of memory');
    expect(tf.memory().numTensors).toBe(before);
    expect(optimizer.iterations).toBe(1);
    device.limitBytes = Number.POSITIVE_INFINITY;
    optimizer.applyGradients(gradients);
    expect(optimizer.iterations).toBe(2);
    optimizer.dispose();
    tf.dispose([weights, gradients] as tf.TensorContainer);
  });
});

describe('a device that can only be read asynchronously', () => {
  let device: DeviceBackend;
  beforeAll(async () => {
    device = await DeviceBackend.use('webgpu', {isAsynchronous: true});
  });

  test.each(PAGED)('%s equals the unpaged, whether the caller waits or not', async (_, Paged, Unpaged) => {
    const expected = await outcome(Unpaged, {}, async (optimizer) => runSteps(optimizer, 0, 6));
    const ways: ((optimizer: Stepping) => Promise<void>)[] = [
      (optimizer) => stepAsync(optimizer, 0, 6),
      async (optimizer) => runSteps(optimizer, 0, 6),
      async (optimizer) => {
        for (let step = 0; step < 6; step++) {
          runSteps(optimizer, step, step + 1);
          if (step % 2)
            await new Promise(setImmediate); // some states arrive before the next step, some within
          else await optimizer.flush();
        }
      },
      async (optimizer) => {
        runSteps(optimizer, 0, 3);
        await stepAsync(optimizer, 3, 6);
      },
    ];
    for (const way of ways)
      expect(await outcome(Paged, {deviceBudgetBytes: 2 * LARGEST}, way)).toEqual(expected);
  });

  test('keeps to the budget when the caller waits, and keeps no tensors', async () => {
    const weights = makeWeights();
    const without = device.bytes;
    await expectNoLeak(async () => {
      const optimizer = makeOptimizer(PagedAdamW, {...ARGS, deviceBudgetBytes: 2 * LARGEST});
      device.peakBytes = 0;
      await stepAsync(optimizer, 0, 2);
      const gradientBytes = without; // one of each weight
      expect(device.peakBytes - without).toBeLessThanOrEqual(2 * LARGEST + gradientBytes + 4 * 660);
      expect(device.bytes).toBe(without);
      runSteps(optimizer, 2, 3);
      expect(device.reading).toBeGreaterThan(0);
      expect(device.bytes - without).toBe(2 * without); // mean and variance, until flush()
      await optimizer.flush();
      expect(device.bytes).toBe(without);
      optimizer.dispose();
    });
    tf.dispose(weights);
  });

  test('frees running downloads when it is disposed', async () => {
    const weights = makeWeights();
    const before = tf.memory().numTensors;
    const optimizer = makeOptimizer(PagedAdamW, ARGS);
    runSteps(optimizer, 0, 2);
    optimizer.dispose();
    while (device.reading > 0) await new Promise(setImmediate);
    expect(tf.memory().numTensors).toBe(before);
    tf.dispose(weights);
  });

  test.each(['AdamW8bit', 'Lion8bit'])('%s needs a kernel when plain ops round integers', async (name) => {
    const weights = makeWeights();
    const before = await valuesOf(weights);
    const optimizer = makeOptimizer(EVERY_OPTIMIZER[name], ARGS);
    const kernel = tf.getKernel(`${name}Update`, 'webgpu');
    tf.unregisterKernel(`${name}Update`, 'webgpu');
    expect(() => runSteps(optimizer, 0, 1)).toThrow(
      `8-bit optimizer: expected a backend that computes in integers or has a kernel ${name}Update, got webgpu`,
    );
    expect(await valuesOf(weights)).toEqual(before);
    tf.registerKernel(kernel);
    runSteps(optimizer, 0, 1);
    expect(optimizer.iterations).toBe(1);
    optimizer.dispose();
    tf.dispose(weights);
  });

  test('one step at a time', async () => {
    const weights = makeWeights();
    const gradients = gradientsAt(0);
    const optimizer = makeOptimizer(PagedAdamW, ARGS);
    const step = optimizer.applyGradientsAsync(gradients);
    expect(() => optimizer.applyGradients(gradients)).toThrow('optimizer: expected one step at a time');
    await step;
    expect(optimizer.iterations).toBe(1);
    let another: Promise<void> | undefined;
    const entry: StateEntry = {
      ...{name: 'w/second/mean', shape: [300], dtype: 'float32'},
      read: () => {
        another = optimizer.applyGradientsAsync(gradients); // begins while state is read
        return new Float32Array(300);
      },
    };
    await expect(
      optimizer.setState(7, [
        entry,
        {...entry, name: 'w/second/variance', read: () => new Float32Array(300)},
      ]),
    ).rejects.toMatchObject({code: 'UNSUPPORTED'});
    await another;
    expect(optimizer.iterations).toBe(2);
    optimizer.dispose();
    tf.dispose([weights, gradients] as tf.TensorContainer);
  });
});
