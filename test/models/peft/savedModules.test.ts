import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {writeSafetensors} from '../../../quant/safetensors/writeSafetensors.ts';
import {useBackend} from '../../../src/training/backends/useBackend.ts';
import {readGoldens} from '../../parity/golden.ts';
import {errorOf, inFolder, logitsOf, tinyLlama} from '../tinyLlama.ts';

beforeAll(async () => {
  await useBackend('cpu');
});

test('several adapters: each has its own copy, one is active at a time', async () => {
  const model = tinyLlama();
  const plain = logitsOf(model);
  model.applyLoRA({rank: 2, modulesToSave: ['lm_head', 'norm'], adapterName: 'a'});
  const copied = [...model.layersWithAdapters().keys()].filter((name) => !/proj$/.test(name));
  expect(copied).toEqual([
    'model.layers.0.input_layernorm',
    'model.layers.0.post_attention_layernorm',
    'model.layers.1.input_layernorm',
    'model.layers.1.post_attention_layernorm',
    'model.norm',
    'lm_head',
  ]);
  expect(model.trainableParameters().get('base_model.model.lm_head.weight')!.shape).toEqual([19, 8]);
  for (const variable of model.trainableParameters().values())
    tf.tidy(() => variable.assign(tf.add(variable, 0.1)));
  const trained = logitsOf(model);
  expect(trained).not.toEqual(plain);
  expect(model.withoutAdapter(() => logitsOf(model))).toEqual(plain);

  model.applyLoRA({rank: 2, modulesToSave: ['lm_head'], adapterName: 'b'});
  expect(logitsOf(model)).toEqual(plain);
  expect(await errorOf(() => model.setAdapter(['a', 'b']))).toMatchObject({
    code: 'UNSUPPORTED',
    message: expect.stringContaining('adapters of lm_head: expected one adapter of weight 1'),
  });
  expect((await errorOf(() => model.setAdapter({a: 0.5}))).code).toBe('UNSUPPORTED');
  expect((await errorOf(() => model.withAdapters(['a', 'b'], () => 0))).code).toBe('UNSUPPORTED');
  expect((await errorOf(() => model.combineAdapters({a: 1, b: 1}, {adapterName: 'c'}))).code).toBe(
    'UNSUPPORTED',
  );
  model.setAdapter('a');
  expect(logitsOf(model)).toEqual(trained);
  model.deleteAdapter('b');
  model.fuseLoRA();
  expect(model.layersWithAdapters().size).toBe(0);
  const fused = logitsOf(model);
  expect(Math.max(...fused.map((value, i) => Math.abs(value - trained[i])))).toBeLessThan(1e-5);
  model.dispose();
});

test('refuses what it cannot copy by name, and then changes nothing', async () => {
  const model = tinyLlama({tieWordEmbeddings: false});
  await model.quantize('nf4');
  const before = tf.memory().numTensors;
  expect(
    await errorOf(() => model.applyLoRA({rank: 2, modulesToSave: ['embed_tokens', 'q_proj']})),
  ).toMatchObject({
    code: 'UNSUPPORTED',
    message: expect.stringContaining(
      'modulesToSave model.layers.0.self_attn.q_proj: expected a layer in 16 or 32 bits',
    ),
  });
  expect(await errorOf(() => model.applyLoRA({rank: 2, modulesToSave: ['lm_haed']}))).toMatchObject({
    code: 'UNKNOWN_TARGET',
    message: expect.stringContaining('Nearest: lm_head'),
  });
  expect(model.adapterNames).toEqual([]);
  expect(tf.memory().numTensors).toBe(before);
  model.applyLoRA({rank: 2, modulesToSave: ['embed_tokens', 'lm_head'], targetModules: ['q_proj']});
  expect(model.trainableParameters().size).toBe(2 * 2 + 2);
  model.dispose();
});

test('reads what PEFT writes beside a copy where the vocabulary was resized', async () => {
  const model = tinyLlama();
  model.applyLoRA({rank: 2, targetModules: ['q_proj'], modulesToSave: ['lm_head']});
  const logits = logitsOf(model);
  await inFolder(async (folder) => {
    await model.saveAdapter(folder);
    const path = join(folder, 'adapter_model.safetensors');
    const own = readGoldens(path);
    const {shape, values} = own.get('base_model.model.lm_head.weight')!;
    const again = ['original_module', 'modules_to_save'].map(
      (part) => `base_model.model.lm_head.${part}.weight`,
    );
    for (const name of again) own.set(name, {shape, values: values.map((value) => value + 1)});
    await writeSafetensors(
      path,
      [...own].map(([name, {shape, values}]) => ({name, dtype: 'F32' as const, shape, data: values})),
    );
    model.deleteAdapter('default');
    await model.loadAdapter(folder);
    expect(logitsOf(model)).toEqual(logits);
  });
  model.dispose();
});

test('copies of 16-bit layers train in float32', () => {
  const model = tinyLlama({}, {dtype: 'bfloat16'});
  const plain = logitsOf(model);
  model.applyLoRA({
    rank: 2,
    modulesToSave: ['embed_tokens'],
    ensureWeightTying: true,
    targetModules: ['q_proj'],
  });
  expect(logitsOf(model)).toEqual(plain);
  const [weight] = [...model.trainableParameters()].filter(([key]) => !key.includes('lora_'));
  expect(weight[0]).toBe('base_model.model.model.embed_tokens.weight');
  expect(weight[1].dtype).toBe('float32');
  model.dispose();
});

test.each([
  [
    'a token outside the vocabulary',
    {trainableTokenIndices: [19]},
    'INVALID_ARGUMENT',
    'ids from 0 to 18, each once, got [19]',
  ],
  ['a token twice', {trainableTokenIndices: [1, 1]}, 'INVALID_ARGUMENT', 'each once'],
  ['an unknown layer', {trainableTokenIndices: {wte: [1]}}, 'UNKNOWN_TARGET', 'trainableTokenIndices wte'],
  [
    'rows of a projection',
    {trainableTokenIndices: {up_proj: [1]}},
    'UNSUPPORTED',
    'expected the embedding or the output head',
  ],
  [
    'tokens of an adapted embedding',
    {trainableTokenIndices: [1], targetModules: ['embed_tokens']},
    'UNSUPPORTED',
    'expected a layer without other adapters',
  ],
  [
    'tokens of a copied head that is tied',
    {trainableTokenIndices: [1], modulesToSave: ['lm_head']},
    'UNSUPPORTED',
    'lm_head: expected a layer without other adapters',
  ],
  [
    'different tokens with ensureWeightTying',
    {trainableTokenIndices: {embed_tokens: [1], lm_head: [2]}, ensureWeightTying: true},
    'INVALID_ARGUMENT',
    'one list for layers with tied weights',
  ],
])('refuses %s', async (_, options, code, message) => {
  const model = tinyLlama();
  const before = tf.memory().numTensors;
  const error = await errorOf(() => model.applyLoRA({rank: 2, targetModules: ['q_proj'], ...options}));
  expect(error).toMatchObject({code, message: expect.stringContaining(message)});
  expect(tf.memory().numTensors).toBe(before);
  model.dispose();
});
