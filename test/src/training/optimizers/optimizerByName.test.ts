import * as tf from '@tensorflow/tfjs';
import {
  Llama,
  type OptimizerName,
  optimizerByName,
  optimizerNames,
  registerOptimizer,
  useBackend,
} from '../../../../src/index.ts';

const TRANSFORMERS = {learningRate: 5e-5, beta1: 0.9, beta2: 0.999, weightDecay: 0};

beforeAll(async () => {
  await useBackend('cpu');
});

test.each<[OptimizerName, string, object]>([
  ['adamw', 'AdamW', {learningRate: 1e-3, weightDecay: 0.01, epsilon: 1e-8}],
  ['lion', 'Lion', {learningRate: 1e-4, beta2: 0.99, weightDecay: 0}],
  ['adamw_torch', 'AdamW', {...TRANSFORMERS, epsilon: 1e-8}],
  ['adamw_torch_fused', 'AdamW', TRANSFORMERS],
  ['adamw_8bit', 'AdamW8bit', {...TRANSFORMERS, min8bitSize: 4096}],
  ['adamw_bnb_8bit', 'AdamW8bit', TRANSFORMERS],
  ['paged_adamw_32bit', 'PagedAdamW', TRANSFORMERS],
  ['paged_adamw_8bit', 'PagedAdamW8bit', TRANSFORMERS],
  ['lion_32bit', 'Lion', TRANSFORMERS],
  ['lion_8bit', 'Lion8bit', TRANSFORMERS],
  ['paged_lion_32bit', 'PagedLion', TRANSFORMERS],
  ['paged_lion_8bit', 'PagedLion8bit', TRANSFORMERS],
  ['sgd', 'SGD', {learningRate: 0.01}],
  ['adam', 'Adam', {learningRate: 0.001, epsilon: 1e-7}],
  ['adamax', 'Adamax', {learningRate: 0.002}],
  ['adagrad', 'Adagrad', {learningRate: 0.01}],
  ['adadelta', 'Adadelta', {learningRate: 1}],
  ['rmsprop', 'RMSProp', {learningRate: 0.001}],
])('%s is %s with the defaults of where its name comes from', (name, className, config) => {
  for (const spelling of [name, name.toUpperCase()]) {
    const optimizer = optimizerByName(spelling);
    expect(optimizer.getClassName()).toBe(className);
    expect(optimizer.getConfig()).toMatchObject(config);
    optimizer.dispose();
  }
});

test('settings replace defaults, unless they are undefined', () => {
  const settings = {
    learningRate: 1e-4,
    beta2: 0.98,
    weightDecay: 0.1,
    loraPlusRatio: 16,
    deviceBudgetBytes: 1e6,
    epsilon: undefined,
  };
  expect(optimizerByName('paged_adamw_8bit', settings).getConfig()).toMatchObject({
    ...settings,
    beta1: 0.9,
    epsilon: 1e-8,
  });
  const sgd = optimizerByName('sgd', {learningRate: 0.5, weightDecay: 0, epsilon: 1e-6});
  expect(sgd.getConfig()).toEqual({learningRate: 0.5});
  sgd.dispose();
});

test('settings that the named one lacks are refused, and so are unknown names', () => {
  expect(() => optimizerByName('sgd', {weightDecay: 0.1})).toThrow(
    'optimizer "sgd": expected one learning rate and no weight decay, got weightDecay 0.1',
  );
  expect(() => optimizerByName('adam', {loraPlusRatio: 16})).toThrow('loraPlusRatio 16');
  const message = (name: string) => {
    try {
      return optimizerByName(name);
    } catch (error) {
      return error;
    }
  };
  for (const name of ['ademamix_8bit', 'galore_adamw', 'adamw_torch_8bit', 'paged_ademamix_8bit']) {
    expect(message(name)).toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringContaining(`optimizer "${name}"`),
    });
  }
  expect(message('adamw_trch')).toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringMatching(/one of adamw, .*Did you mean adamw_torch\?/),
  });
  expect(tf.memory().numTensors).toBe(0);
});

test('a registered optimizer is made by its name, for compile too, and no name changes its meaning', () => {
  const made: object[] = [];
  const halved = (settings: {learningRate?: number}) => {
    made.push(settings);
    return tf.train.sgd((settings.learningRate ?? 1) / 2);
  };
  registerOptimizer('Halved', halved);
  registerOptimizer('halved', halved); // the same again, as in a notebook's cell
  expect(optimizerNames().filter((name) => name === 'halved')).toHaveLength(1);
  const settings = {learningRate: 0.5, beta1: undefined};
  expect(optimizerByName('HALVED', settings).getConfig()).toEqual({learningRate: 0.25});
  expect(made).toEqual([{learningRate: 0.5}]);
  for (const taken of ['halved', 'AdamW', 'adafactor', '']) {
    expect(() => registerOptimizer(taken, () => tf.train.sgd(1))).toThrow(
      `registerOptimizer name: expected a new name, got '${taken}', with adamw, `,
    );
  }
  const model = Llama.fromConfig({
    vocabSize: 8,
    hiddenSize: 4,
    intermediateSize: 4,
    numHiddenLayers: 1,
    numAttentionHeads: 1,
  });
  model.compile({optimizer: 'halved'});
  expect(made).toEqual([{learningRate: 0.5}, {}]);
  model.dispose();
});
