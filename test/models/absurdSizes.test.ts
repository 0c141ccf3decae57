import {readFile, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {LlamaForCausalLM} from '../../models/llama/llama.ts';
import {errorOf, inFolder, tinyLlama} from './tinyLlama.ts';

beforeAll(() => tf.setBackend('cpu'));

test.each([
  {num_hidden_layers: 1_000_000},
  {head_dim: 500_000_000},
  {hidden_size: 2 ** 40},
  {intermediate_size: 1e15},
  {vocab_size: 1e12},
  {num_attention_heads: 2 ** 40},
])('refuses %j before a model of that size is built', async (sizes) => {
  await inFolder(async (folder) => {
    const model = tinyLlama();
    await model.save(folder);
    model.dispose();
    const path = join(folder, 'config.json');
    await writeFile(path, JSON.stringify({...JSON.parse(await readFile(path, 'utf8')), ...sizes}));
    const before = tf.memory().numTensors;
    const {code, message} = await errorOf(() => LlamaForCausalLM.fromPretrained(folder));
    expect(code).toBe('INVALID_CONFIG');
    expect(message).toMatch(
      /config\.json: expected the sizes of a model that fits into its files, got one of [\de+.]+ weights/,
    );
    expect(tf.memory().numTensors).toBe(before);
  });
});
