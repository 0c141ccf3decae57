import * as tf from '@tensorflow/tfjs';
import {parseConfig} from '../../../models/llama/config.ts';
import type {LlamaForCausalLM} from '../../../models/llama/llama.ts';
import {describeEachBackend} from '../../describeEachBackend.ts';
import {expectClose} from '../../expectClose.ts';
import {errorOf, logitsOf, tinyConfig, tinyIds, tinyLlama} from '../tinyLlama.ts';

const batch = {inputIds: tinyIds, labels: tinyIds, attentionMask: tinyIds.map(() => [1, 1, 1, 1, 0])};

/** Computes the summed loss of a training pass, and the gradient of every trained weight. */
function pass(model: LlamaForCausalLM, seed: number): {loss: number; gradients: number[]} {
  return tf.tidy(() => {
    const variables = [...model.trainableParameters().values()];
    const {value, grads} = tf.variableGrads(() => model.lossSum(batch, {training: true, seed}), variables);
    return {
      loss: value.dataSync()[0],
      gradients: variables.flatMap(({name}) => Array.from(grads[name].dataSync())),
    };
  });
}

describeEachBackend('attention_dropout of a config', () => {
  test('drops only in training, and drops the same values when a block is recomputed for its gradient', () => {
    const before = tf.memory().numTensors;
    const model = tinyLlama({attentionDropout: 0.3});
    const plain = tinyLlama();
    expect(logitsOf(model)).toEqual(logitsOf(plain));
    const first = pass(model, 1);
    expect(pass(model, 1)).toEqual(first);
    expect(pass(model, 2).loss).not.toBeCloseTo(first.loss, 3);
    expect(pass(plain, 1).loss).not.toBeCloseTo(first.loss, 3);
    model.gradientCheckpointing = false;
    const whole = pass(model, 1);
    expect(whole.loss).toBeCloseTo(first.loss, 4);
    expectClose(tf.tensor1d(whole.gradients), tf.tensor1d(first.gradients), {relative: 1e-4});
    model.dispose();
    plain.dispose();
    expect(tf.memory().numTensors).toBeLessThanOrEqual(before + 2); // the two compared lists
  });
});

test('is read, written and checked', async () => {
  const json = {
    ...{vocab_size: 19, hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1, num_attention_heads: 2},
    attention_dropout: 0.1,
  };
  expect(parseConfig(json).attentionDropout).toBe(0.1);
  expect(parseConfig({...json, attention_dropout: null}).attentionDropout).toBe(0);
  for (const wrong of [1, -0.1, '0.1'])
    expect(await errorOf(() => parseConfig({...json, attention_dropout: wrong}))).toMatchObject({
      code: 'INVALID_CONFIG',
      message: expect.stringContaining('attention_dropout: expected 0 ≤ p < 1'),
    });
  const model = tinyLlama({...tinyConfig, attentionDropout: 0.2}, {allocate: false});
  expect(model.formatConfig('float32').attention_dropout).toBe(0.2);
  model.dispose();
});
