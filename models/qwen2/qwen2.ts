import * as tf from '@tensorflow/tfjs';
import type {GroupedQueryAttention, GroupedQueryAttentionArgs} from '../../layers/groupedQueryAttention.ts';
import type {LlamaConfig} from '../llama/config.ts';
import {DecoderBlock} from '../llama/decoderBlock.ts';
import {LlamaForCausalLM} from '../llama/llama.ts';
import {layerTypeOf, type SlidingConfig, windowOf} from '../llama/slidingWindow.ts';
import {presets} from './presets.ts';

export interface QwenConfig extends LlamaConfig, Omit<SlidingConfig, 'numHiddenLayers'> {
  /** Whether layers may have a window. Default false. */
  useSlidingWindow: boolean;
  /** Without `layerTypes`, the first layer that has a window. Default 28. */
  maxWindowLayers: number;
}

/** Default values of a Qwen config's keys. */
export const qwenDefaults = {
  maxPositionEmbeddings: 32768,
  useSlidingWindow: false,
  slidingWindow: 4096,
  maxWindowLayers: 28,
  layerTypes: null,
};

/** Returns the window of a layer; undefined if it has none. */
export function qwenWindowOf(config: QwenConfig, layerIndex: number): number | undefined {
  const type = layerTypeOf(config, layerIndex, (index) =>
    index >= config.maxWindowLayers ? 'sliding_attention' : 'full_attention',
  );
  return config.useSlidingWindow && type === 'sliding_attention' ? windowOf(config) : undefined;
}

/** A block of Llama with biases on the projections to queries, keys and values, and windows in some layers. */
class Qwen2DecoderBlock extends DecoderBlock {
  static override className = 'Qwen2DecoderBlock';
  static override readonly isPlain = true;

  protected override createAttention(args: GroupedQueryAttentionArgs): GroupedQueryAttention {
    const window = qwenWindowOf(this.config as QwenConfig, this.layerIndex);
    return super.createAttention({...args, useBias: 'qkv', window});
  }
}
tf.serialization.registerClass(Qwen2DecoderBlock);

/** Qwen 2 and 2.5: a Llama with biases on the projections to queries, keys and values. */
export class Qwen2ForCausalLM extends LlamaForCausalLM {
  static override className = 'Qwen2ForCausalLM';
  static override readonly modelType = 'qwen2';
  static override readonly architecture = 'Qwen2ForCausalLM';
  static override readonly configDefaults = qwenDefaults;
  static override readonly presets = presets;
  static override readonly blockClass = Qwen2DecoderBlock;
  declare readonly config: QwenConfig;

  static override parameterCount = (config: LlamaConfig): number => {
    const biases = config.headDim * (config.numAttentionHeads + 2 * config.numKeyValueHeads);
    return LlamaForCausalLM.parameterCount(config) + config.numHiddenLayers * biases;
  };
}
