import * as tf from '@tensorflow/tfjs';
import {LlamaForCausalLM} from '../../models/llama/llama.ts';
import {trainable} from '../../src/index.ts';
import {errorOf, tinyConfig} from './tinyLlama.ts';

class Mine extends LlamaForCausalLM {}

beforeAll(() => tf.setBackend('cpu'));

test.each(['compile', 'fit', 'fitDataset', 'trainOnBatch', 'evaluate', 'evaluateDataset'] as const)(
  'a class without training refuses %s and says how to add it',
  async (call) => {
    const model = Mine.fromConfig(tinyConfig);
    expect(await errorOf(() => (model[call] as () => unknown)())).toEqual({
      code: 'UNSUPPORTED',
      message:
        `${call}: expected a model class with training, got Mine, which has none. ` +
        "Give it training: import {trainable} from 'tfjs-lora', and use trainable(Mine) in its place.",
    });
    model.dispose();
  },
);

test('the class that trainable makes of it trains', async () => {
  const model = trainable(Mine).fromConfig(tinyConfig);
  model.compile({optimizer: tf.train.sgd(0.1)});
  expect((await model.trainOnBatch({inputIds: [[1, 2]], labels: [[1, 2]]})).loss).toBeGreaterThan(0);
  model.dispose();
});
