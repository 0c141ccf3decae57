import * as tf from '@tensorflow/tfjs';
import type {GroupedQueryAttention, GroupedQueryAttentionArgs} from '../../layers/groupedQueryAttention.ts';
import type {LlamaConfig} from '../llama/config.ts';
import {DecoderBlock} from '../llama/decoderBlock.ts';
import {LlamaForCausalLM} from '../llama/llama.ts';
import {type QwenConfig, qwenDefaults, qwenWindowOf} from '../qwen2/qwen2.ts';
import {presets} from './presets.ts';

/** A block of Llama that normalizes each query and key head, with windows in some layers. */
class Qwen3DecoderBlock extends DecoderBlock {
  static override className = 'Qwen3DecoderBlock';
  static override readonly isPlain = true;

  protected override createAttention(args: GroupedQueryAttentionArgs): GroupedQueryAttention {
    const window = qwenWindowOf(this.config as QwenConfig, this.layerIndex);
    return super.createAttention({...args, headNorm: {epsilon: this.config.rmsNormEps}, window});
  }
}
tf.serialization.registerClass(Qwen3DecoderBlock);

/** Qwen 3, the dense models: a Llama that normalizes each query and key head. */
export class Qwen3ForCausalLM extends LlamaForCausalLM {
  static override className = 'Qwen3ForCausalLM';
  static override readonly modelType = 'qwen3';
  static override readonly architecture = 'Qwen3ForCausalLM';
  static override readonly configDefaults = {...qwenDefaults, headDim: 128};
  static override readonly presets = presets;
  static override readonly blockClass = Qwen3DecoderBlock;
  declare readonly config: QwenConfig;

  static override parameterCount = (config: LlamaConfig): number =>
    LlamaForCausalLM.parameterCount(config) + 2 * config.numHiddenLayers * config.headDim;
}
