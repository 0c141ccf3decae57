import * as tf from '@tensorflow/tfjs';
import {LlamaForCausalLM} from '../../models/llama/llama.ts';
import {useBackend} from '../../src/training/backends/useBackend.ts';
import {estimateMemory} from '../../src/training/run/estimateMemory.ts';
import {inFolder, tinyIds, tinyLlama} from './tinyLlama.ts';

beforeAll(async () => {
  await useBackend('cpu');
});

const bytesOf = (model: LlamaForCausalLM) => estimateMemory(model, {batchSize: 1, sequenceLength: 8}).weights;

test.each([
  ['float32', {}],
  ['bfloat16', {dtype: 'bfloat16'}],
  ['nf4', {quantization: {type: 'nf4'}}],
  ['nf4 with double quantization', {quantization: {type: 'nf4', doubleQuant: true}}],
  ['fp4 in blocks of 32', {quantization: {type: 'fp4', blockSize: 32}}],
  ['int8', {quantization: {type: 'int8'}}],
] as const)('a folder in %s, opened without its weights, knows what they take', async (_, options) => {
  await inFolder(async (folder) => {
    const made = tinyLlama();
    await made.save(folder);
    made.dispose();
    const before = tf.memory().numBytes;
    const declared = (await LlamaForCausalLM.fromPretrained(folder, {
      ...options,
      allocate: false,
    })) as LlamaForCausalLM;
    expect(tf.memory().numBytes).toBe(before);
    const loaded = (await LlamaForCausalLM.fromPretrained(folder, options)) as LlamaForCausalLM;
    expect(bytesOf(declared)).toBe(loaded.byteLength);
    expect(bytesOf(loaded)).toBe(loaded.byteLength);
    expect(declared.countParams()).toBe(loaded.countParams());
    for (const model of [declared, loaded]) model.applyLoRA({rank: 2, useDoRA: true});
    expect(bytesOf(declared)).toBe(loaded.byteLength);
    expect(() => declared.predict(tinyIds)).toThrow('expected a value, got none');
    for (const model of [declared, loaded]) model.dispose();
  });
});
