import * as tf from '@tensorflow/tfjs';
import {
  type AttentionContext,
  GroupedQueryAttention,
  type GroupedQueryAttentionArgs,
} from '../../layers/groupedQueryAttention.ts';
import {LAYER_OPTIONS, type LayerArgs, ModuleLayer, onlyInput, onlyShape} from '../../layers/moduleLayer.ts';
import {isRecomputing} from '../../layers/ops/keptResults.ts';
import {asConfig} from '../../layers/ops/tfjsInternals.ts';
import {RMSNorm} from '../../layers/rmsNorm.ts';
import {SwiGLU, type SwiGLUArgs} from '../../layers/swiGLU.ts';
import type {StorageDtype} from '../../quant/float16.ts';
import type {OptionNames} from '../../quant/knownOptions.ts';
import type {LlamaConfig} from './config.ts';

export interface DecoderBlockArgs extends LayerArgs {
  config: LlamaConfig;
  /** Position in the stack, from 0. */
  layerIndex: number;
  storage?: StorageDtype;
}

/**
 * One block of Llama: attention and feed-forward, each after a norm and with a residual connection.
 * Input and output `[B, T, C]`.
 */
export class DecoderBlock extends ModuleLayer {
  static className = 'LlamaDecoderBlock';
  static readonly optionNames = {
    ...LAYER_OPTIONS,
    config: true,
    layerIndex: true,
    storage: true,
  } satisfies OptionNames<DecoderBlockArgs>;
  /**
   * Says that the blocks of a class compute what this class does with the layers that they have, so that one op may run
   * them. A subclass does not inherit it.
   */
  static readonly isPlain = true;
  readonly config: LlamaConfig;
  readonly layerIndex: number;
  readonly storage?: StorageDtype;
  self_attn: GroupedQueryAttention;
  mlp: SwiGLU;
  input_layernorm: RMSNorm;
  post_attention_layernorm: RMSNorm;

  constructor(args: DecoderBlockArgs) {
    super(args);
    const {config, layerIndex, storage} = args;
    const name = (part: string) => `${this.name}.${part}`;
    this.config = config;
    this.layerIndex = layerIndex;
    this.storage = storage;
    this.self_attn = this.createAttention({
      name: name('self_attn'),
      heads: config.numAttentionHeads,
      keyValueHeads: config.numKeyValueHeads,
      headDim: config.headDim,
      useBias: config.attentionBias,
      ropeTheta: config.ropeTheta,
      ropeScaling: config.ropeScaling,
      dropout: config.attentionDropout,
      layerIndex,
      storage,
    });
    this.mlp = this.createMlp({
      name: name('mlp'),
      intermediateSize: config.intermediateSize,
      useBias: config.mlpBias,
      storage,
    });
    this.input_layernorm = this.createNorm('input_layernorm');
    this.post_attention_layernorm = this.createNorm('post_attention_layernorm');
  }

  /** Makes the attention, when the block is constructed. A subclass may give it other options, or make another. */
  protected createAttention(args: GroupedQueryAttentionArgs): GroupedQueryAttention {
    return new GroupedQueryAttention(args);
  }

  /** Makes one of the norms, when the block is constructed. */
  protected createNorm(name: string): RMSNorm {
    return new RMSNorm({name: `${this.name}.${name}`, epsilon: this.config.rmsNormEps});
  }

  /** Makes the feed-forward, when the block is constructed. A subclass may make another. */
  protected createMlp(args: SwiGLUArgs): SwiGLU {
    return new SwiGLU(args);
  }

  override build(inputShape: tf.Shape | tf.Shape[]): void {
    const shape = onlyShape(inputShape);
    for (const [, layer] of this.sublayers) this.buildSublayer(layer, shape);
    this.built = true;
  }

  override computeOutputShape(inputShape: tf.Shape | tf.Shape[]): tf.Shape {
    return onlyShape(inputShape);
  }

  override call(inputs: tf.Tensor | tf.Tensor[], context: AttentionContext = {}): tf.Tensor {
    return tf.tidy(() => {
      const {training, seed} = context;
      const x = onlyInput(inputs); // [B, T, C]
      const attended = this.self_attn.apply(this.input_layernorm.apply(x), context) as tf.Tensor;
      const h = tf.add(x, attended); // [B, T, C]
      const normed = this.post_attention_layernorm.apply(h);
      return tf.add(h, this.mlp.apply(normed, {training, seed, isUnread: isRecomputing()}) as tf.Tensor);
    });
  }

  override getConfig(): tf.serialization.ConfigDict {
    const {config, layerIndex, storage = null} = this;
    return asConfig({...super.getConfig(), config, layerIndex, storage});
  }
}
tf.serialization.registerClass(DecoderBlock);
