import {type Json, type LlamaConfig, type LlamaConfigArgs, parseConfig} from '../llama/config.ts';
import {LlamaForCausalLM} from '../llama/llama.ts';
import {assertCausal, type GemmaConfig, gemmaDefaults} from './config.ts';
import {GemmaDecoderBlock} from './decoderBlock.ts';
import {gemma2Presets} from './presets.ts';

/**
 * Gemma 2: blocks with four norms and a GELU gate, bounded scores and logits, scaled embeddings, and a window in every
 * other layer.
 */
export class Gemma2ForCausalLM extends LlamaForCausalLM {
  static override className = 'Gemma2ForCausalLM';
  static override readonly modelType: string = 'gemma2';
  static override readonly architecture: string = 'Gemma2ForCausalLM';
  static override readonly hiddenAct: string = 'gelu_pytorch_tanh';
  static override readonly configDefaults: Json = {
    ...gemmaDefaults,
    maxPositionEmbeddings: 8192,
    attnLogitSoftcapping: 50,
    finalLogitSoftcapping: 30,
    slidingWindowPattern: 2,
  };
  static override readonly presets: Record<string, LlamaConfigArgs> = gemma2Presets;
  static override readonly blockClass: typeof GemmaDecoderBlock = GemmaDecoderBlock;
  static override readonly normOffset = 1;
  declare readonly config: GemmaConfig;

  static override embeddingScale(config: LlamaConfig): number {
    return Math.sqrt(config.hiddenSize);
  }

  override get logitBound(): number | undefined {
    return this.config.finalLogitSoftcapping ?? undefined;
  }

  static override parseConfig(json: Json, where: string): LlamaConfig {
    assertCausal(json, where);
    return parseConfig(json, where, this);
  }

  static override parameterCount = (config: LlamaConfig): number =>
    LlamaForCausalLM.parameterCount(config) + 2 * config.numHiddenLayers * config.hiddenSize; // the other two norms
}
