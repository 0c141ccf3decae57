import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {LlamaForCausalLM} from '../../models/llama/llama.ts';
import {setWarningHandler} from '../../quant/warn.ts';
import {useBackend} from '../../src/training/backends/useBackend.ts';
import {readGoldens, readJson} from '../parity/golden.ts';
import {errorOf, inFolder, logitsOf, tinyLlama} from './tinyLlama.ts';

const {added} = readJson<{
  added: {length: number; texts: Record<string, number[]>; decoded: string[]};
}>('../modules/fixtures/manifest.json');

let restore: () => void;
beforeAll(async () => {
  const before = setWarningHandler(() => {});
  restore = () => setWarningHandler(before);
  await useBackend('cpu');
});
afterAll(() => restore());

const rowsOf = (model: LlamaForCausalLM, name: string) =>
  model.namedParameters().get(name)!.read().arraySync() as number[][];

/** Returns means and covariances of rows, with the same divisor for all. */
function momentsOf(rows: number[][]): {mean: number[]; covariance: number[][]} {
  const mean = rows[0].map((_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length);
  const entry = (i: number, j: number) =>
    rows.reduce((sum, row) => sum + (row[i] - mean[i]) * (row[j] - mean[j]), 0) / rows.length;
  return {mean, covariance: mean.map((_, i) => mean.map((_, j) => entry(i, j)))};
}

test.each([
  ['mean', 1e-9],
  ['noise', undefined],
] as const)('%s: new rows have the mean and the covariance that the peer draws with', (newRows, share) => {
  const model = tinyLlama({tieWordEmbeddings: false});
  const [embedding, head] = ['model.embed_tokens.weight', 'lm_head.weight'].map((name) =>
    rowsOf(model, name),
  );
  const plain = logitsOf(model);
  model.resizeVocab(3000, {newRows});
  expect(model.config.vocabSize).toBe(3000);
  for (const [name, old] of [
    ['model.embed_tokens.weight', embedding],
    ['lm_head.weight', head],
  ] as const) {
    const rows = rowsOf(model, name);
    expect(rows.slice(0, 19)).toEqual(old);
    const [from, drawn] = [momentsOf(old), momentsOf(rows.slice(19))];
    const unit = share ?? 1 / 8;
    const largest = share ? Math.max(...from.covariance.flat()) : 1;
    for (const [i, row] of drawn.covariance.entries()) {
      expect(Math.abs(drawn.mean[i] - from.mean[i])).toBeLessThan(share ? 1e-6 : 0.05);
      for (const [j, value] of row.entries()) {
        const expected = share ? from.covariance[i][j] : Number(i === j);
        expect(Math.abs(value / unit - expected)).toBeLessThan(0.15 * largest);
      }
    }
  }
  const logits = logitsOf(model);
  const kept = logits.filter((_, i) => i % 3000 < 19);
  expect(Math.max(...kept.map((value, i) => Math.abs(value - plain[i])))).toBeLessThan(1e-6);
  model.resizeVocab(19);
  expect(logitsOf(model)).toEqual(plain);
  model.dispose();
});

test('a tied model stays tied, and an adapter that is saved then has its table', async () => {
  const before = tf.memory().numTensors;
  const model = tinyLlama().resizeVocab(21, {seed: 1, padToMultipleOf: 4});
  expect(model.config.vocabSize).toBe(24);
  model.applyLoRA({rank: 2, targetModules: ['q_proj'], trainableTokenIndices: [20]});
  for (const variable of model.trainableParameters().values())
    tf.tidy(() => variable.assign(tf.add(variable, 0.1)));
  const logits = logitsOf(model);
  await inFolder(async (folder) => {
    await model.saveAdapter(folder);
    const keys = [...readGoldens(join(folder, 'adapter_model.safetensors')).keys()];
    expect(keys.filter((key) => key.includes('embed_tokens')).sort()).toEqual([
      'base_model.model.model.embed_tokens.token_adapter.base_layer.weight',
      'base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta',
    ]);
    const other = tinyLlama();
    expect((await errorOf(() => other.loadAdapter(folder))).message).toContain('call resizeVocab first');
    await other.resizeVocab(24, {seed: 2}).loadAdapter(folder);
    expect(logitsOf(other)).toEqual(logits);
    other.dispose();
    model.mergeLoRA();
    await model.save(join(folder, 'merged'));
    const merged = await LlamaForCausalLM.fromPretrained(join(folder, 'merged'));
    expect(merged.config).toMatchObject({vocabSize: 24, tieWordEmbeddings: true});
    merged.dispose();
  });
  model.dispose();
  expect(tf.memory().numTensors).toBe(before);
});

test('refuses adapters, quantized heads and impossible sizes', async () => {
  const model = tinyLlama({tieWordEmbeddings: false});
  expect((await errorOf(() => model.resizeVocab(0))).message).toContain(
    'resizeVocab size: expected a positive integer',
  );
  await model.quantize({type: 'nf4', skipModules: []});
  expect((await errorOf(() => model.resizeVocab(30))).code).toBe('UNSUPPORTED');
  model.dequantize().applyLoRA({rank: 2});
  expect((await errorOf(() => model.resizeVocab(30))).message).toContain('Resize before applyLoRA');
  expect((await errorOf(() => model.addTokens(['<a>']))).message).toContain('a model with a tokenizer');
  model.dispose();
});

test('added tokens equal those of transformers, and are saved', async () => {
  const model = await LlamaForCausalLM.fromPretrained(resolve('examples/quickstart/model'));
  const {vocabSize} = model.config;
  model
    .addTokens(['<amount>', 'bill', 'a'])
    .addTokens(['<|bill|>', '<amount>'], {special: true, padToMultipleOf: 64});
  expect(model.tokenizer!.vocabSize).toBe(added.length);
  expect(model.config.vocabSize).toBe(Math.max(vocabSize, 64 * Math.ceil(added.length / 64)));
  const expectSame = ({tokenizer}: LlamaForCausalLM) => {
    for (const [i, [text, ids]] of Object.entries(added.texts).entries()) {
      expect(tokenizer!.encode(text)).toEqual(ids);
      expect(tokenizer!.decode(ids, {skipSpecialTokens: true})).toBe(added.decoded[i]);
    }
  };
  expectSame(model);
  await inFolder(async (folder) => {
    await model.save(folder);
    const loaded = await LlamaForCausalLM.fromPretrained(folder);
    expectSame(loaded);
    expect(loaded.config.vocabSize).toBe(model.config.vocabSize);
    loaded.dispose();
  });
  model.dispose();
});
