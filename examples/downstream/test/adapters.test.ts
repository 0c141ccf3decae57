import assert from 'node:assert/strict';
import {before, describe, test} from 'node:test';
import * as tf from '@tensorflow/tfjs';
import {Llama, useBackend} from 'tfjs-lora';
import {LoRAFADense, VeRADense} from '../src/index.ts';
import {assertClose, assertLearns, logitsOf, TINY} from './tinyModel.ts';

const targets = {rank: 4, targetModules: ['q_proj', 'up_proj', 'down_proj']};
const trainedKinds = (model: Llama) =>
  new Set([...model.trainableParameters().keys()].map((key) => key.replace(/^.*?_proj\./, '')));

before(() => useBackend('cpu'));

describe('LoRA-FA', () => {
  test('trains B alone, and its folder is one of LoRA', async () => {
    const model = Llama.fromConfig(TINY, {seed: 1});
    model.applyLoRA({...targets, layerClass: LoRAFADense});
    assert.deepEqual(trainedKinds(model), new Set(['lora_B.weight']));
    const layer = model.adaptedLayers().get('model.layers.0.self_attn.q_proj');
    const before = layer?.loraA.read().dataSync().slice();
    await assertLearns(model);
    assert.deepEqual(layer?.loraA.read().dataSync(), before);
    const files = new Map<string, Blob>();
    await model.saveAdapter(files);
    const again = Llama.fromConfig(TINY, {seed: 1});
    await again.loadAdapter(files); // by LoRA's own layers
    assert.deepEqual(logitsOf(again), logitsOf(model));
    await again.deleteAdapter('default').loadAdapter(files, {layerClass: LoRAFADense, trainable: true});
    assert.deepEqual(trainedKinds(again), new Set(['lora_B.weight']));
    model.dispose();
    again.dispose();
  });
});

describe('VeRA', () => {
  test('starts equal to the base, and trains the scales of projections that layers share', async () => {
    const before = tf.memory().numTensors;
    const model = Llama.fromConfig(TINY, {seed: 1});
    const plain = logitsOf(model);
    model.applyLoRA({...targets, layerClass: VeRADense, dInitial: 0.5});
    assert.deepEqual(logitsOf(model), plain);
    assert.deepEqual(trainedKinds(model), new Set(['vera_lambda_d', 'vera_lambda_b']));
    const [first, second] = [0, 1].map((block) =>
      model.adaptedLayers().get(`model.layers.${block}.mlp.up_proj`)?.adapter(),
    );
    assert.ok(first && first.loraA === second?.loraA && first.loraB === second.loraB);
    await assertLearns(model);
    const adapted = logitsOf(model);
    model.mergeLoRA();
    assertClose(logitsOf(model), adapted, 1e-4);
    model.dispose();
    assert.equal(tf.memory().numTensors, before);
  });

  test('is saved as its scales, and loaded by its type, on a quantized base too', async () => {
    const model = Llama.fromConfig(TINY, {seed: 1});
    await model.quantize('nf4');
    model.applyLoRA({...targets, layerClass: VeRADense, projectionSeed: 9});
    await assertLearns(model);
    const files = new Map<string, Blob>();
    await model.saveAdapter(files);
    const config = JSON.parse((await files.get('adapter_config.json')?.text()) ?? '');
    assert.equal(config.peft_type, 'SEEDED_VERA');
    assert.equal(config.projection_seed, 9);
    const scales = 2 * (3 * 4 + 16 + 24 + 16); // d of rank 4 in three layers, b of their outputs, in two blocks
    assert.ok((files.get('adapter_model.safetensors')?.size ?? 0) < 4 * scales + 4096);
    const again = Llama.fromConfig(TINY, {seed: 1});
    await again.quantize('nf4');
    await again.loadAdapter(files);
    assert.deepEqual(logitsOf(again), logitsOf(model));
    model.dispose();
    again.dispose();
  });

  test('refuses options of LoRA, and layers that have LoRA', () => {
    const model = Llama.fromConfig(TINY, {seed: 1});
    const withAlpha = {...targets, layerClass: VeRADense, alpha: 8};
    assert.throws(
      () => model.applyLoRA(withAlpha),
      /applyLoRA alpha: expected some of rank, dropout, dInitial/,
    );
    model.applyLoRA(targets);
    const second = {...targets, layerClass: VeRADense, adapterName: 'second'};
    assert.throws(() => model.applyLoRA(second), /expected a layer without adapters or a VeRADense/);
    model.dispose();
  });
});
