import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import {formatConfig, type LlamaConfigArgs, LlamaForCausalLM} from '../models/index.ts';
import {resolveConfig} from '../models/llama/resolveConfig.ts';
import {writeShardedSafetensors} from '../quant/index.ts';

/**
 * Writes a bfloat16 model folder of random weights, in shards, without the whole model in memory.
 *
 * @param shape config, or name of a preset
 */
export async function writeRandomFolder(folder: string, shape: LlamaConfigArgs | string): Promise<void> {
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
