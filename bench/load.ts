/**
 * How fast a checkpoint loads, and how much memory that takes beyond the model itself.
 *
 *   npx tsx bench/load.ts [preset or scale, default "small"] [backend, default wasm]
 *
 * Writes a random bfloat16 folder of that shape to a temporary place, in shards, loads it in this process, and prints
 * the time, the model's size, its largest tensor, and the peak of the process's resident memory above its start. The
 * promise: peak ≤ model + one tensor (and what the runtime itself wanders).
 */
import {mkdirSync, mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {formatConfig, type LlamaConfigArgs, LlamaForCausalLM, presets} from '../models/index.ts';
import {resolveConfig} from '../models/llama/config.ts';
import {writeShardedSafetensors} from '../quant/index.ts';
import {Llama, useBackend} from '../src/index.ts';

const small: LlamaConfigArgs = {
  ...presets['llama-3.2-1b'],
  vocabSize: 32000,
  hiddenSize: 1024,
  intermediateSize: 4096,
  numHiddenLayers: 8,
  numAttentionHeads: 16,
};

async function writeRandomFolder(folder: string, shape: LlamaConfigArgs | string): Promise<void> {
  const config = resolveConfig(shape as never);
  const model = LlamaForCausalLM.fromConfig(shape, {allocate: false, dtype: 'bfloat16'});
  const noise = new Uint16Array(1 << 16)
    .map(() => 0x3c00 | (Math.random() * 0x8200) | 0)
    .map((bits) => bits & 0xbcff);
  const tensors = [...model.namedParameters()].map(([name, {logicalShape, size}]) => ({
    name,
    dtype: 'BF16' as const,
    shape: logicalShape,
    data: () => {
      const bits = new Uint16Array(size);
      for (let at = 0; at < size; at += noise.length)
        bits.set(noise.subarray(0, Math.min(noise.length, size - at)), at);
      return bits;
    },
  }));
  mkdirSync(folder, {recursive: true});
  await writeShardedSafetensors(folder, tensors, {maxShardBytes: 1e9});
  writeFileSync(join(folder, 'config.json'), JSON.stringify(formatConfig(config, 'bfloat16'), null, 2));
}

async function main(): Promise<void> {
  const [shape = 'small', backend = 'wasm'] = process.argv.slice(2);
  const folder = mkdtempSync(join(tmpdir(), 'tfjs-lora-load-'));
  try {
    await writeRandomFolder(folder, shape === 'small' ? small : shape);
    const report = await useBackend(backend as 'wasm');
    const resident = () => process.memoryUsage().rss;
    global.gc?.();
    const before = resident();
    let peak = before;
    const begun = performance.now();
    const model = await Llama.fromPretrained(folder, {
      onProgress: () => {
        peak = Math.max(peak, resident());
      },
    });
    const seconds = (performance.now() - begun) / 1000;
    const bytes = tf.memory().numBytes;
    const largest = Math.max(...[...model.namedParameters().values()].map(({size}) => 2 * size));
    const megabytes = (count: number) => Math.round(count / 1e6);
    const result = {
      shape,
      backend: report.backend,
      parameters: model.countParams(),
      modelMB: megabytes(bytes),
      largestTensorMB: megabytes(largest),
      peakAboveStartMB: megabytes(peak - before),
      allowedMB: megabytes(bytes + largest),
      seconds: Number(seconds.toFixed(2)),
      megabytesPerSecond: megabytes(bytes / seconds),
    };
    console.table(result);
    console.log(JSON.stringify(result));
  } finally {
    rmSync(folder, {recursive: true, force: true});
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
