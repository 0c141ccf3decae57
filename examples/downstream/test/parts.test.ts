import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {before, describe, test} from 'node:test';
import {fileURLToPath} from 'node:url';
import * as tf from '@tensorflow/tfjs';
import {AutoModelForCausalLM, Llama, useBackend} from 'tfjs-lora';
import {getTemplate} from 'tfjs-lora/data';
import {optimizerByName} from 'tfjs-lora/optimizers';
import {getQuantizer} from 'tfjs-lora/quant';
import {ArceeForCausalLM, QUESTION_ANSWER, squaredReLU, Tiger} from '../src/index.ts';
import {assertClose, assertLearns, logitsOf, rows, TINY} from './tinyModel.ts';

const ARCEE = fileURLToPath(new URL('../../test/fixtures/arcee', import.meta.url)); // from dist/test
const golden = JSON.parse(readFileSync(`${ARCEE}/golden.json`, 'utf8'));

before(() => useBackend('cpu'));

describe('the quantizer', () => {
  const {quantize} = getQuantizer('grouped-int4');
  const values = Float32Array.from({length: 5 * 70}, (_, i) => Math.sin(i * i));

  test('is within half a step of every value, row by row', () => {
    const matrix = quantize(values, [5, 70], {groupSize: 16});
    assertClose(matrix.dequantize(), values, 1 / 15 + 1e-6); // a step is at most 2 / 15
    assert.deepEqual(matrix.dequantizeRows(2, 4), matrix.dequantize().slice(140, 280));
    assert.ok(matrix.byteLength < (4 * values.length) / 2);
  });

  test('refuses what it cannot store', () => {
    const damaged = Float32Array.of(1, Number.NaN);
    assert.throws(() => quantize(damaged, [1, 2], {name: 'w'}), {code: 'NON_FINITE'});
    assert.throws(() => quantize(values, [5, 70], {blockSize: 64}), /grouped-int4 blockSize/);
    assert.throws(
      () => quantize(values, [5, 70], {groupSize: 0}),
      /groupSize: expected a whole number above 0, got 0/,
    );
  });

  test('is saved in its own tensors and loaded exactly, and trains adapters', async () => {
    const model = Llama.fromConfig({...TINY, tieWordEmbeddings: false}, {seed: 1});
    await model.quantize({type: 'grouped-int4', groupSize: 8});
    const files = new Map<string, Blob>();
    await model.save(files);
    const again = await AutoModelForCausalLM.fromPretrained(files);
    assert.deepEqual(logitsOf(again), logitsOf(model));
    again.applyLoRA({rank: 2});
    await assertLearns(again);
    model.dispose();
    again.dispose();
  });
});

test('the template writes questions and answers', () => {
  const {user, assistant} = getTemplate(QUESTION_ANSWER);
  assert.deepEqual(user, ['Question: {{content}}\nAnswer:']);
  assert.deepEqual(assistant, [' {{content}}', {special: 'eos'}, '\n']);
});

test('the optimizer steps by the sign of its momentum, with decay', () => {
  const weight = tf.variable(tf.tensor1d([1, 1, 1]), true, 'tigerWeight');
  const tiger = optimizerByName('tiger', {learningRate: 0.5, weightDecay: 0.1, beta2: 0.999, epsilon: 1e-8});
  assert.ok(tiger instanceof Tiger);
  tiger.applyGradients({tigerWeight: tf.tensor1d([3, -0.1, 0])});
  assertClose(weight.dataSync(), [0.45, 1.45, 0.95], 1e-6);
  tiger.dispose();
  weight.dispose();
});

test('the kernel equals the formula of its op, forward and gradient', () => {
  const x = tf.tensor2d([-2, -0.5, 0, 0.5, 3, 7], [2, 3]);
  const run = () => tf.valueAndGrad((input) => squaredReLU(input))(x, tf.fill([2, 3], 2));
  const fast = run();
  const kernel = tf.getKernel('ExtrasSquaredReLU', 'cpu');
  assert.ok(kernel);
  tf.unregisterKernel('ExtrasSquaredReLU', 'cpu');
  const composed = run();
  tf.registerKernel(kernel);
  assert.deepEqual(fast.value.dataSync(), composed.value.dataSync());
  assert.deepEqual(fast.grad.dataSync(), composed.grad.dataSync());
  assert.deepEqual([...fast.value.dataSync()], [0, 0, 0, 0.25, 9, 49]);
});

describe('the model family', () => {
  test('computes what transformers does: logits, loss and gradient', async () => {
    const model = await AutoModelForCausalLM.fromPretrained(ARCEE);
    assert.ok(model instanceof ArceeForCausalLM);
    assert.equal(model.countParams(), golden.parameters);
    assert.deepEqual(golden.ids, rows);
    assertClose(logitsOf(model), golden.logits, 2e-5);
    const labels = {inputIds: rows, labels: rows};
    const {value, grads} = tf.variableGrads(() => model.lossSum(labels).div(model.targetCount(labels)));
    assertClose(value.dataSync(), [golden.loss], 1e-5);
    assertClose(grads['model.layers.0.mlp.up_proj.weight'].dataSync(), golden.up_proj_gradient, 2e-5);
    model.dispose();
  });

  test('has adapters where PEFT has them, generates, and is saved as its family', async () => {
    const model = await AutoModelForCausalLM.fromPretrained(ARCEE);
    model.applyLoRA({rank: 2});
    const names = [...model.adaptedLayers().keys()].filter((name) => name.startsWith('model.layers.0.mlp'));
    assert.deepEqual(names, ['model.layers.0.mlp.up_proj', 'model.layers.0.mlp.down_proj']);
    await assertLearns(model);
    const files = new Map<string, Blob>();
    await model.fuseLoRA().save(files);
    const config = JSON.parse((await files.get('config.json')?.text()) ?? '');
    assert.deepEqual([config.model_type, config.hidden_act], ['arcee', 'relu2']);
    const again = await AutoModelForCausalLM.fromPretrained(files);
    assert.deepEqual(logitsOf(again), logitsOf(model));
    again.dispose();
    model.dispose();
  });
});
