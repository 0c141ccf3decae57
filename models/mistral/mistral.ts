import * as tf from '@tensorflow/tfjs';
import type {GroupedQueryAttention, GroupedQueryAttentionArgs} from '../../layers/groupedQueryAttention.ts';
import type {LlamaConfig} from '../llama/config.ts';
import {DecoderBlock} from '../llama/decoderBlock.ts';
import {LlamaForCausalLM} from '../llama/llama.ts';
import {windowOf} from '../llama/slidingWindow.ts';
import {presets} from './presets.ts';

export interface MistralConfig extends LlamaConfig {
  /** Number of positions that a query sees at most, its own included. Null: all. Default 4096. */
  slidingWindow: number | null;
}

/** A block of Llama whose attention has a window. */
class MistralDecoderBlock extends DecoderBlock {
  static override className = 'MistralDecoderBlock';
  static override readonly isPlain = true;

  protected override createAttention(args: GroupedQueryAttentionArgs): GroupedQueryAttention {
    return super.createAttention({...args, window: windowOf(this.config as MistralConfig)});
  }
}
tf.serialization.registerClass(MistralDecoderBlock);

/** Mistral 7B and Nemo, and others of their shape: a Llama whose attention may have a window. */
export class MistralForCausalLM extends LlamaForCausalLM {
  static override className = 'MistralForCausalLM';
  static override readonly modelType = 'mistral';
  static override readonly architecture = 'MistralForCausalLM';
  static override readonly configDefaults = {
    maxPositionEmbeddings: 131072,
    numKeyValueHeads: 8,
    slidingWindow: 4096,
  };
  static override readonly presets = presets;
  static override readonly blockClass = MistralDecoderBlock;
  declare readonly config: MistralConfig;
}
