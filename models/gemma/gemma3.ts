import * as tf from '@tensorflow/tfjs';
import type {
  AttentionContext,
  GroupedQueryAttention,
  GroupedQueryAttentionArgs,
} from '../../layers/groupedQueryAttention.ts';
import {RotaryEmbedding} from '../../layers/rotaryEmbedding.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {show} from '../../quant/show.ts';
import {type Json, type LlamaConfig, parseConfig} from '../llama/config.ts';
import {assertCausal, type GemmaConfig, gemmaDefaults, gemmaLayerType} from './config.ts';
import {GemmaDecoderBlock} from './decoderBlock.ts';
import {Gemma2ForCausalLM} from './gemma2.ts';
import {JointRotary} from './jointRotary.ts';
import {gemma3Presets} from './presets.ts';

export interface Gemma3Config extends GemmaConfig {
  /** Base of the rotary frequencies in layers with a window; `ropeTheta` is that of the others. Default 10000. */
  ropeLocalBaseFreq: number;
}

/** A block of Gemma with norms of heads, and rotary positions of its own in layers with a window. */
class Gemma3DecoderBlock extends GemmaDecoderBlock {
  static override className = 'Gemma3DecoderBlock';

  private get isLocal(): boolean {
    return gemmaLayerType(this.config as Gemma3Config, this.layerIndex) === 'sliding_attention';
  }

  protected override createAttention(args: GroupedQueryAttentionArgs): GroupedQueryAttention {
    const {rmsNormEps: epsilon, ropeLocalBaseFreq} = this.config as Gemma3Config;
    const local = this.isLocal && {ropeTheta: ropeLocalBaseFreq, ropeScaling: undefined};
    return super.createAttention({...args, ...local, headNorm: {epsilon, offset: 1}});
  }

  /** @param context `rotary` has the tables of a {@link JointRotary}: first those of layers with a window */
  override call(inputs: tf.Tensor | tf.Tensor[], context: AttentionContext = {}): tf.Tensor {
    return tf.tidy(() => {
      const rotary = context.rotary && JointRotary.partOf(context.rotary, this.isLocal ? 0 : 1);
      return super.call(inputs, {...context, rotary});
    });
  }
}
tf.serialization.registerClass(Gemma3DecoderBlock);

/** Gemma 3, text only: as Gemma 2, without bounds, with norms of heads, and two bases of rotary frequencies. */
export class Gemma3ForCausalLM extends Gemma2ForCausalLM {
  static override className = 'Gemma3ForCausalLM';
  static override readonly modelType = 'gemma3_text';
  static override readonly architecture = 'Gemma3ForCausalLM';
  static override readonly configDefaults = {
    ...gemmaDefaults,
    maxPositionEmbeddings: 131072,
    ropeTheta: 1e6,
    ropeLocalBaseFreq: 10000,
    attnLogitSoftcapping: null,
    finalLogitSoftcapping: null,
    slidingWindowPattern: 6,
  };
  static override readonly presets = gemma3Presets;
  static override readonly blockClass = Gemma3DecoderBlock;

  protected override createRotary(): JointRotary {
    const {headDim, ropeTheta, ropeScaling, ropeLocalBaseFreq} = this.config as Gemma3Config;
    return new JointRotary('model.rotary_emb', [
      new RotaryEmbedding({headDim, theta: ropeLocalBaseFreq}),
      new RotaryEmbedding({headDim, theta: ropeTheta, scaling: ropeScaling}),
    ]);
  }

  static override parseConfig(json: Json, where: string): LlamaConfig {
    assertCausal(json, where);
    return {...parseConfig(withOneRope(json, where), where, this), source: json};
  }

  static override parameterCount = (config: LlamaConfig): number =>
    Gemma2ForCausalLM.parameterCount(config) + 2 * config.numHiddenLayers * config.headDim; // the norms of heads
}

/** Spells the rotary settings of transformers 5, which are one object per type of layer, as transformers 4 does. */
function withOneRope(json: Json, where: string): Json {
  const {full_attention, sliding_attention} = (json.rope_parameters ?? {}) as Record<
    string,
    Json | undefined
  >;
  if (!full_attention && !sliding_attention) return json;
  const type = sliding_attention?.rope_type ?? 'default';
  if (type !== 'default') {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${where} rope_parameters sliding_attention rope_type: expected "default", got ${show(type)}`,
    );
  }
  return {
    ...json,
    rope_parameters: full_attention ?? {},
    rope_local_base_freq: sliding_attention?.rope_theta ?? json.rope_local_base_freq ?? 10000,
  };
}
