import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {AdamW} from '../../../../src/index.ts';
import {describeEachBackend, expectNoLeak} from '../../../describeEachBackend.ts';
import {expectClose, goldenNamed, readGoldens, toTensor} from '../../../parity/golden.ts';

const FOLDER = join(__dirname, 'fixtures');
const goldens = readGoldens(join(FOLDER, 'adamW.safetensors'));
const {names, steps, kept, learningRates, ...settings} = JSON.parse(
  readFileSync(join(FOLDER, 'adamW.json'), 'utf8'),
) as {
  names: string[];
  steps: number;
  kept: number[];
  learningRates: number[];
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
};

let variables: tf.Variable[] = [];

function makeVariables(): tf.Variable[] {
  variables = names.map((name) =>
    tf.tidy(() => toTensor(goldenNamed(goldens, `start/${name}`)).variable(true, name)),
  );
  return variables;
}

function runStep(optimizer: AdamW, step: number): void {
  optimizer.learningRate = learningRates[step];
  tf.tidy(() => {
    const gradients = names.map((name) => {
      const all = toTensor(goldenNamed(goldens, `gradients/${name}`));
      return [name, all.slice(step, 1).squeeze([0])];
    });
    optimizer.applyGradients(Object.fromEntries(gradients));
  });
}

const valuesOf = () => variables.map((variable) => Array.from(variable.dataSync()));

describeEachBackend('AdamW', () => {
  afterEach(() => {
    tf.dispose(variables);
    variables = [];
  });

  test('equals torch.optim.AdamW over 50 steps with changing rates', async () => {
    const optimizer = new AdamW(settings);
    makeVariables();
    for (let step = 0; step < steps; step++) {
      runStep(optimizer, step);
      if (!kept.includes(step + 1)) continue;
      for (const [i, name] of names.entries()) {
        await expectClose(variables[i], goldenNamed(goldens, `${step + 1}/${name}`), 1e-6);
      }
    }
    const weights = await optimizer.getWeights();
    expect(weights[0].tensor.dataSync()[0]).toBe(steps);
    for (const {name, tensor} of weights.slice(1)) {
      const [variable, slot] = name.split('/');
      await expectClose(tensor, goldenNamed(goldens, `${slot}/${variable}`), 1e-6);
    }
    weights[0].tensor.dispose();
    optimizer.dispose();
  });

  test('continues from saved state as if it had never stopped', async () => {
    const whole = new AdamW(settings);
    makeVariables();
    for (let step = 0; step < 6; step++) runStep(whole, step);
    const expected = valuesOf();
    whole.dispose();
    tf.dispose(variables);

    const first = new AdamW(settings);
    makeVariables();
    for (let step = 0; step < 3; step++) runStep(first, step);
    const saved = await first.getWeights();
    const second = new AdamW(settings);
    await second.setWeights([saved[0], ...saved.slice(1).reverse()]);
    first.dispose();
    saved[0].tensor.dispose();
    for (let step = 3; step < 6; step++) runStep(second, step);
    expect(valuesOf()).toEqual(expected);
    second.dispose();
  });

  test('restores its own state', async () => {
    const optimizer = new AdamW(settings);
    makeVariables();
    runStep(optimizer, 0);
    const saved = await optimizer.getWeights();
    const before = saved.slice(1).map(({tensor}) => Array.from(tensor.dataSync()));
    await optimizer.setWeights(saved);
    const after = await optimizer.getWeights();
    expect(after.slice(1).map(({tensor}) => Array.from(tensor.dataSync()))).toEqual(before);
    tf.dispose([saved[0].tensor, after[0].tensor]);
    optimizer.dispose();
  });

  test('keeps its state when a variable is made again under its name', () => {
    const optimizer = new AdamW(settings);
    makeVariables();
    for (let step = 0; step < 2; step++) runStep(optimizer, step);
    const afterTwo = variables.map((variable) => variable.clone());
    runStep(optimizer, 2);
    const expected = valuesOf();
    optimizer.dispose();
    tf.dispose(variables);

    const again = new AdamW(settings);
    makeVariables();
    for (let step = 0; step < 2; step++) runStep(again, step);
    tf.dispose(variables);
    variables = names.map((name, i) => tf.variable(afterTwo[i], true, name));
    runStep(again, 2);
    expect(valuesOf()).toEqual(expected);
    tf.dispose(afterTwo);
    again.dispose();
  });

  test('keeps no tensors but its state, and frees it', () => {
    makeVariables();
    expectNoLeak(() => {
      const optimizer = new AdamW(settings);
      const before = tf.memory().numTensors;
      runStep(optimizer, 0);
      runStep(optimizer, 1);
      expect(tf.memory().numTensors).toBe(before + 2 * names.length);
      optimizer.dispose();
    });
  });

  test('changes no variable when one gradient cannot be applied', () => {
    const optimizer = new AdamW(settings);
    makeVariables();
    const before = valuesOf();
    const good = tf.ones([5, 7]);
    const wrong = tf.ones([12]);
    expect(() => optimizer.applyGradients({matrix: good, vector: wrong})).toThrow(
      /optimizer gradient "vector": expected \[11\].*got \[12\]/,
    );
    expect(() => optimizer.applyGradients({matrix: good, nowhere: wrong})).toThrow(
      'optimizer gradient "nowhere": expected a variable of that name that is not disposed, got none',
    );
    expect(valuesOf()).toEqual(before);
    expect(optimizer.iterations).toBe(0);
    optimizer.applyGradients([
      {name: 'matrix', tensor: good},
      {name: 'vector', tensor: null as unknown as tf.Tensor}, // as Keras passes a variable out of the loss's reach
    ]);
    expect(optimizer.iterations).toBe(1);
    expect(valuesOf().slice(1)).toEqual(before.slice(1));
    tf.dispose([good, wrong]);
    optimizer.dispose();
  });

  test('refuses state that does not fit, and keeps its own', async () => {
    const optimizer = new AdamW(settings);
    makeVariables();
    runStep(optimizer, 0);
    const count = tf.scalar(7, 'int32');
    const [fits, wrong] = [tf.ones([11]), tf.ones([3])];
    const iter = {name: 'iter', tensor: count};
    const set = (...state: {name: string; tensor: tf.Tensor}[]) => optimizer.setWeights(state);
    await expect(set()).rejects.toThrow('expected the number of steps first, got none');
    await expect(set({name: 'vector/mean', tensor: fits})).rejects.toThrow(
      'expected the number of steps first',
    );
    await expect(set(iter, {name: 'vector/momentum', tensor: fits})).rejects.toThrow(
      '"vector/momentum": expected',
    );
    await expect(set(iter, {name: 'vector/mean', tensor: fits})).rejects.toThrow('"vector/variance"');
    await expect(
      set(iter, {name: 'vector/mean', tensor: wrong}, {name: 'vector/variance', tensor: fits}),
    ).rejects.toMatchObject({code: 'SHAPE_MISMATCH'});
    expect(optimizer.iterations).toBe(1);
    runStep(optimizer, 1); // its own state is still there
    tf.dispose([count, fits, wrong]);
    optimizer.dispose();
  });

  test('refuses a variable made again with another shape', () => {
    const optimizer = new AdamW(settings);
    makeVariables();
    runStep(optimizer, 0);
    variables[1].dispose();
    variables[1] = tf.tidy(() => tf.zeros([4]).variable(true, 'vector'));
    const gradient = tf.ones([4]);
    expect(() => optimizer.applyGradients({vector: gradient})).toThrow(
      /optimizer state "vector\/mean": expected \[4\].*got \[11\]/,
    );
    gradient.dispose();
    optimizer.dispose();
  });

  test('does not decay excluded variables', () => {
    // With a gradient of 0, only the decay changes a weight.
    const excluded = ['vec', /^cu/g];
    const optimizer = new AdamW({...settings, learningRate: 0.5, excludeFromWeightDecay: excluded});
    makeVariables();
    const before = valuesOf();
    for (let step = 0; step < 2; step++) {
      tf.tidy(() =>
        optimizer.applyGradients(Object.fromEntries(variables.map((v) => [v.name, tf.zerosLike(v)]))),
      );
    }
    const [matrix, vector, cube] = valuesOf();
    expect(vector).toEqual(before[1]);
    expect(cube).toEqual(before[2]);
    expect(matrix[0]).toBeCloseTo(before[0][0] * 0.95 * 0.95, 5);
    optimizer.dispose();
  });
});

describe('AdamW settings', () => {
  test('survive a round trip through the config', () => {
    const given = {...settings, learningRate: 3e-4, excludeFromWeightDecay: ['bias', /norm.*$/i]};
    const config = JSON.parse(JSON.stringify(new AdamW(given).getConfig()));
    const Class = tf.serialization.SerializationMap.getMap().classNameMap.AdamW[0];
    expect(Class).toBe(AdamW);
    expect(AdamW.fromConfig(AdamW as never, config)).toMatchObject(given);
  });

  test.each([
    [{learningRate: -1}, 'AdamW learningRate: expected a number'],
    [{learningRate: Number.NaN}, 'AdamW learningRate: expected a number'],
    [{epsilon: -1e-8}, 'AdamW epsilon'],
    [{weightDecay: Number.POSITIVE_INFINITY}, 'AdamW weightDecay'],
    [{beta1: 1}, 'AdamW beta1: expected 0 ≤ β < 1, got 1'],
    [{beta2: -0.1}, 'AdamW beta2'],
  ])('%o is refused', (args, message) => {
    expect(() => new AdamW(args)).toThrow(message);
  });
});
