import * as tf from '@tensorflow/tfjs';
import type {GroupedQueryAttention, GroupedQueryAttentionArgs} from '../../layers/groupedQueryAttention.ts';
import type {SwiGLUArgs} from '../../layers/swiGLU.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import type {StorageDtype} from '../../quant/float16.ts';
import {show} from '../../quant/show.ts';
import {type Json, type LlamaConfig, parseConfig} from '../llama/config.ts';
import {DecoderBlock} from '../llama/decoderBlock.ts';
import {LlamaForCausalLM} from '../llama/llama.ts';
import {windowOf} from '../llama/slidingWindow.ts';
import {FusedAttention} from './fusedAttention.ts';
import {FusedSwiGLU} from './fusedSwiGLU.ts';
import {presets} from './presets.ts';

export interface Phi3Config extends LlamaConfig {
  /** Number of positions that a query sees at most, its own included. Null, the default: all. */
  slidingWindow: number | null;
  /** Share of a head's elements that rotate by their position. Default 1. */
  partialRotaryFactor: number;
}

/** A block of Llama with one projection to queries, keys and values, one to gate and up, and partial rotation. */
class Phi3DecoderBlock extends DecoderBlock {
  static override className = 'Phi3DecoderBlock';

  protected override createAttention(args: GroupedQueryAttentionArgs): GroupedQueryAttention {
    const {headDim, partialRotaryFactor: share} = this.config as Phi3Config;
    const rotaryDim = share < 1 ? Math.floor(headDim * share) : undefined;
    return new FusedAttention({...args, rotaryDim, window: windowOf(this.config as Phi3Config)});
  }

  protected override createMlp(args: SwiGLUArgs): FusedSwiGLU {
    return new FusedSwiGLU(args);
  }
}
tf.serialization.registerClass(Phi3DecoderBlock);

/** Phi-3, 3.5 and 4: a Llama with fused projections, partial rotation and longrope. */
export class Phi3ForCausalLM extends LlamaForCausalLM {
  static override className = 'Phi3ForCausalLM';
  static override readonly modelType = 'phi3';
  static override readonly architecture = 'Phi3ForCausalLM';
  static override readonly configDefaults = {
    maxPositionEmbeddings: 4096,
    rmsNormEps: 1e-5,
    slidingWindow: null,
    partialRotaryFactor: 1,
  };
  static override readonly presets = presets;
  static override readonly blockClass = Phi3DecoderBlock;
  declare readonly config: Phi3Config;

  static override parseConfig(json: Json, where: string): LlamaConfig {
    for (const key of ['resid_pdrop', 'embd_pdrop']) {
      if (!json[key]) continue;
      throw new TfjsLoraError('UNSUPPORTED', `${where} ${key}: expected 0, got ${show(json[key])}`);
    }
    const rope = {...(json.rope_scaling as Json | null), ...(json.rope_parameters as Json | null)};
    const type = rope.rope_type ?? rope.type;
    const spelled = {
      original_max_position_embeddings: 4096,
      ...json,
      partial_rotary_factor: rope.partial_rotary_factor ?? json.partial_rotary_factor ?? 1,
      // Old configs call longrope by these names.
      ...((type === 'yarn' || type === 'su') && {rope_parameters: {...rope, rope_type: 'longrope'}}),
    };
    return {...parseConfig(spelled, where, this), source: json};
  }

  override formatConfig(dtype: StorageDtype): Json {
    const {source, ropeScaling} = this.config;
    const json = super.formatConfig(dtype);
    if (source || ropeScaling?.type !== 'longrope') return json;
    return {...json, original_max_position_embeddings: ropeScaling.originalMaxPositionEmbeddings};
  }
}
