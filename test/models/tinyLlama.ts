import {mkdtemp, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {LlamaForCausalLM} from '../../models/llama/llama.ts';
import {TfjsLoraError} from '../../quant/errors.ts';

export const tinyConfig = {
  vocabSize: 19,
  hiddenSize: 8,
  intermediateSize: 12,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 16,
  initializerRange: 0.3,
  tieWordEmbeddings: true,
};

/** The config of a Llama of a few hundred parameters. */
export function tinyLlama(
  extra: Partial<typeof tinyConfig> & Record<string, unknown> = {},
  options: Parameters<typeof LlamaForCausalLM.fromConfig>[1] & object = {},
): LlamaForCausalLM {
  return LlamaForCausalLM.fromConfig({...tinyConfig, ...extra}, options) as LlamaForCausalLM;
}

export const tinyIds = [
  [1, 5, 3, 18, 7],
  [2, 2, 9, 0, 11],
];

/** Gives every B of an adapter small seeded values, so that the adapter changes the logits. */
export function stirAdapter(model: LlamaForCausalLM, adapterName = 'default', seed = 1): void {
  let next = seed;
  for (const layer of model.adaptedLayers().values()) {
    const adapter = layer.adapters.get(adapterName);
    if (!adapter) continue;
    const value = tf.randomNormal(adapter.loraB.logicalShape, 0, 0.5, 'float32', next++);
    adapter.loraB.write(value);
    value.dispose();
  }
}

/** Computes logits as plain numbers, and keeps no tensor. */
export function logitsOf(model: LlamaForCausalLM, ids = tinyIds): Float32Array {
  return tf.tidy(() => model.predict(ids).dataSync() as Float32Array).slice();
}

/** Returns code and message of what `run` throws or rejects with. Fails when it is not one of our errors. */
export async function errorOf(run: () => unknown): Promise<{code: string; message: string}> {
  try {
    await run();
  } catch (error) {
    if (error instanceof TfjsLoraError) return {code: error.code, message: error.message};
    throw error;
  }
  throw new Error('expected an error, got none');
}

/** Runs `body` with an empty folder, which is removed afterwards. */
export async function inFolder<R>(body: (folder: string) => Promise<R>): Promise<R> {
  const folder = await mkdtemp(join(tmpdir(), 'tfjs-lora-'));
  try {
    return await body(folder);
  } finally {
    await rm(folder, {recursive: true});
  }
}
