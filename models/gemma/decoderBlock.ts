import * as tf from '@tensorflow/tfjs';
import {GeGLU} from '../../layers/geGLU.ts';
import type {
  AttentionContext,
  GroupedQueryAttention,
  GroupedQueryAttentionArgs,
} from '../../layers/groupedQueryAttention.ts';
import {onlyInput} from '../../layers/moduleLayer.ts';
import {RMSNorm} from '../../layers/rmsNorm.ts';
import type {SwiGLUArgs} from '../../layers/swiGLU.ts';
import {DecoderBlock, type DecoderBlockArgs} from '../llama/decoderBlock.ts';
import {windowOf} from '../llama/slidingWindow.ts';
import {type GemmaConfig, gemmaLayerType} from './config.ts';

/**
 * One block of Gemma: attention and feed-forward, each between two norms and with a residual connection. Input and
 * output `[B, T, C]`.
 */
export class GemmaDecoderBlock extends DecoderBlock {
  static override className = 'GemmaDecoderBlock';
  pre_feedforward_layernorm: RMSNorm;
  post_feedforward_layernorm: RMSNorm;

  constructor(args: DecoderBlockArgs) {
    super(args);
    this.pre_feedforward_layernorm = this.createNorm('pre_feedforward_layernorm');
    this.post_feedforward_layernorm = this.createNorm('post_feedforward_layernorm');
  }

  protected override createAttention(args: GroupedQueryAttentionArgs): GroupedQueryAttention {
    const config = this.config as GemmaConfig;
    const isSliding = gemmaLayerType(config, this.layerIndex) === 'sliding_attention';
    return super.createAttention({
      ...args,
      scale: config.queryPreAttnScalar ** -0.5,
      softCap: config.attnLogitSoftcapping ?? undefined,
      window: isSliding ? windowOf(config) : undefined,
    });
  }

  protected override createMlp(args: SwiGLUArgs): GeGLU {
    return new GeGLU(args);
  }

  protected override createNorm(name: string): RMSNorm {
    return new RMSNorm({name: `${this.name}.${name}`, epsilon: this.config.rmsNormEps, offset: 1});
  }

  override call(inputs: tf.Tensor | tf.Tensor[], context: AttentionContext = {}): tf.Tensor {
    return tf.tidy(() => {
      const {training, seed} = context;
      const x = onlyInput(inputs); // [B, T, C]
      const attended = this.self_attn.apply(this.input_layernorm.apply(x), context);
      const h = tf.add(x, this.post_attention_layernorm.apply(attended) as tf.Tensor); // [B, T, C]
      const normed = this.pre_feedforward_layernorm.apply(h);
      const fed = this.mlp.apply(normed, {training, seed});
      return tf.add(h, this.post_feedforward_layernorm.apply(fed) as tf.Tensor);
    });
  }
}
tf.serialization.registerClass(GemmaDecoderBlock);
