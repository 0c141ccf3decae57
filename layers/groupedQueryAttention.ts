import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import type {StorageDtype} from '../quant/float16.ts';
import type {OptionNames} from '../quant/knownOptions.ts';
import {hashName} from './hashName.ts';
import {
  type Initializer,
  type SerializedInitializer,
  serializeInitializer,
  toInitializer,
} from './initializer.ts';
import type {KeyValueCache} from './keyValueCache.ts';
import type {LoRADense} from './loraDense.ts';
import {
  flatten,
  LAYER_OPTIONS,
  type LayerArgs,
  ModuleLayer,
  onlyInput,
  onlyShape,
  unflatten,
} from './moduleLayer.ts';
import {attention, fitsKernel} from './ops/attention.ts';
import {decodeAttentionOp} from './ops/decodeAttention.ts';
import {hasKernel} from './ops/dispatch.ts';
import {type RopeScaling, RotaryEmbedding, type RotaryTables} from './rotaryEmbedding.ts';
import {TransposedDense} from './transposedDense.ts';

export interface GroupedQueryAttentionArgs extends LayerArgs {
  /** Number of query heads H. */
  heads: number;
  /** Number of key-value heads K, a divisor of H. Default H. */
  keyValueHeads?: number;
  /** Size D of a head. Default the input's last axis / H. */
  headDim?: number;
  /** Bias on the four projections. Default false. */
  useBias?: boolean;
  ropeTheta?: number;
  ropeScaling?: RopeScaling;
  /** Probability of dropping an attention weight in training. Default 0. */
  dropout?: number;
  /** Index of this layer's slot in the cache. Default 0. */
  layerIndex?: number;
  /** Storage type of the weights: float32, bfloat16 or float16. Default `float32`. */
  storage?: StorageDtype;
  weightInitializer?: Initializer | SerializedInitializer;
}

/** The tensors that a model computes once and passes to every attention layer of a forward pass. */
export interface AttentionContext {
  /** Default: positions 0 … T − 1. */
  rotary?: RotaryTables;
  /** `[B or 1, 1, T, S]`, see {@link causalBias}. Default: causal, hiding what `segments` hide. */
  bias?: tf.Tensor4D;
  /** `[B, S]` int32, see {@link causalBias}; not needed with a `bias`. Default: no padding. */
  segments?: tf.Tensor2D;
  /** Earlier keys and values; this pass adds its own. */
  cache?: KeyValueCache;
  training?: boolean;
  seed?: number;
}

/**
 * Causal self-attention with rotary positions and grouped queries, as in Llama. Input and output `[B, T, C]`.
 * Sub-layers are named as in Hugging Face's files and may be replaced by any layer of the same shapes.
 */
export class GroupedQueryAttention extends ModuleLayer {
  static className = 'GroupedQueryAttention';
  static readonly optionNames = {
    ...LAYER_OPTIONS,
    heads: true,
    keyValueHeads: true,
    headDim: true,
    useBias: true,
    ropeTheta: true,
    ropeScaling: true,
    dropout: true,
    layerIndex: true,
    storage: true,
    weightInitializer: true,
  } satisfies OptionNames<GroupedQueryAttentionArgs>;
  readonly heads: number;
  readonly keyValueHeads: number;
  headDim?: number;
  readonly useBias: boolean;
  readonly ropeTheta?: number;
  readonly ropeScaling?: RopeScaling;
  readonly dropout: number;
  readonly layerIndex: number;
  readonly storage: StorageDtype;
  readonly weightInitializer: Initializer;
  q_proj!: TransposedDense | LoRADense;
  k_proj!: TransposedDense | LoRADense;
  v_proj!: TransposedDense | LoRADense;
  o_proj!: TransposedDense | LoRADense;
  rotary_emb!: RotaryEmbedding;

  constructor(args: GroupedQueryAttentionArgs) {
    super(args);
    this.heads = args.heads;
    this.keyValueHeads = args.keyValueHeads ?? args.heads;
    this.headDim = args.headDim ?? undefined;
    this.useBias = args.useBias ?? false;
    this.ropeTheta = args.ropeTheta ?? undefined;
    this.ropeScaling = args.ropeScaling ?? undefined;
    this.dropout = args.dropout ?? 0;
    this.layerIndex = args.layerIndex ?? 0;
    this.storage = args.storage ?? 'float32';
    this.weightInitializer = toInitializer(args.weightInitializer ?? tf.initializers.glorotUniform({}));
  }

  override build(inputShape: tf.Shape | tf.Shape[]): void {
    const size = onlyShape(inputShape).at(-1) as number;
    this.headDim ??= size / this.heads;
    this.assertHeads(size);
    this.q_proj = this.project('q_proj', size, this.heads * this.headDim);
    this.k_proj = this.project('k_proj', size, this.keyValueHeads * this.headDim);
    this.v_proj = this.project('v_proj', size, this.keyValueHeads * this.headDim);
    this.o_proj = this.project('o_proj', this.heads * this.headDim, size);
    this.rotary_emb = new RotaryEmbedding({
      name: `${this.name}.rotary_emb`,
      headDim: this.headDim,
      theta: this.ropeTheta,
      scaling: this.ropeScaling,
    });
    this.rotary_emb.built = true;
    this.built = true;
  }

  private assertHeads(size: number): void {
    const {heads, keyValueHeads, headDim} = this;
    if (heads % keyValueHeads !== 0) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `${this.name} keyValueHeads: expected a divisor of ${heads} heads, got ${keyValueHeads}`,
      );
    }
    if (Number.isInteger(headDim)) return;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${this.name} headDim: expected an even number, got ${size} / ${heads} heads. Pass headDim.`,
    );
  }

  private project(name: string, inputDim: number, units: number): TransposedDense {
    const {useBias, storage, weightInitializer} = this;
    const dense = new TransposedDense({
      name: `${this.name}.${name}`,
      units,
      useBias,
      storage,
      weightInitializer,
    });
    this.buildSublayer(dense, [null, inputDim]);
    return dense;
  }

  override computeOutputShape(inputShape: tf.Shape | tf.Shape[]): tf.Shape {
    return onlyShape(inputShape);
  }

  override call(inputs: tf.Tensor | tf.Tensor[], context: AttentionContext = {}): tf.Tensor {
    return tf.tidy(() => {
      const {cache, bias, segments, training, seed} = context;
      const x = onlyInput<tf.Tensor3D>(inputs); // [B, T, C]
      const [batch, length, size] = x.shape;
      const rows = flatten(x, size); // [B·T, C], once for all projections
      const past = cache?.lengthOf(this.layerIndex) ?? 0;
      const rotary = context.rotary ?? this.rotary_emb.tables(length, past);
      const apply = (layer: TransposedDense | LoRADense) =>
        layer.apply(rows, {training, seed}) as tf.Tensor2D;
      const finish = (attended: tf.Tensor2D) =>
        unflatten(this.o_proj.apply(attended, {training, seed}) as tf.Tensor2D, x);

      if (
        cache &&
        past > 0 &&
        length === 1 &&
        !bias &&
        hasKernel(decodeAttentionOp) &&
        fitsKernel(this.headDim as number)
      ) {
        const [query, key, value] = [this.q_proj, this.k_proj, this.v_proj].map(apply); // [B, heads·D]
        const attended = cache.attend(this.layerIndex, {query, key, value, ...rotary, segments}); // [B, H·D]
        return finish(attended); // [B, 1, C]
      }
      const project = (layer: TransposedDense | LoRADense, heads: number) =>
        apply(layer).reshape([batch, length, heads, -1]).transpose([0, 2, 1, 3]) as tf.Tensor4D; // [B, heads, T, D]
      const query = this.rotary_emb.apply(project(this.q_proj, this.heads), rotary) as tf.Tensor4D;
      let key = this.rotary_emb.apply(project(this.k_proj, this.keyValueHeads), rotary) as tf.Tensor4D;
      let value = project(this.v_proj, this.keyValueHeads);
      if (cache) [key, value] = cache.update(this.layerIndex, key, value); // [B, K, S, D]

      const dropped = training && {dropout: this.dropout, seed: seed && seed + hashName(this.name)};
      const attended = attention(query, key, value, {bias, causal: true, segments, ...dropped}); // [B, H, T, D]
      return finish(attended.transpose([0, 2, 1, 3]).reshape([batch * length, -1])); // [B, T, C]
    });
  }

  override getConfig(): tf.serialization.ConfigDict {
    return {
      ...super.getConfig(),
      heads: this.heads,
      keyValueHeads: this.keyValueHeads,
      headDim: this.headDim ?? null,
      useBias: this.useBias,
      ropeTheta: this.ropeTheta ?? null,
      ropeScaling: (this.ropeScaling ?? null) as tf.serialization.ConfigDict | null,
      dropout: this.dropout,
      layerIndex: this.layerIndex,
      storage: this.storage,
      weightInitializer: serializeInitializer(this.weightInitializer),
    } as tf.serialization.ConfigDict;
  }
}
tf.serialization.registerClass(GroupedQueryAttention);
