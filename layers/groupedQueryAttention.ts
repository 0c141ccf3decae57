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
import {RMSNorm, type RMSNormArgs} from './rmsNorm.ts';
import type {RopeScaling} from './ropeFrequencies.ts';
import {RotaryEmbedding, type RotaryTables} from './rotaryEmbedding.ts';
import {TransposedDense} from './transposedDense.ts';

export interface GroupedQueryAttentionArgs extends LayerArgs {
  /** Number of query heads H. */
  heads: number;
  /** Number of key-value heads K, a divisor of H. Default H. */
  keyValueHeads?: number;
  /** Size D of a head. Default the input's last axis / H. */
  headDim?: number;
  /** Whether the projections have a bias: all four, or with `'qkv'` all but `o_proj`. Default false. */
  useBias?: boolean | 'qkv';
  /** Norm of each query and key head before its rotation, `q_norm` and `k_norm`. Default none. */
  headNorm?: Pick<RMSNormArgs, 'epsilon' | 'offset'>;
  ropeTheta?: number;
  ropeScaling?: RopeScaling;
  /** Number of a head's elements that rotate; the others do not change. Default all. */
  rotaryDim?: number;
  /** Whether queries and keys rotate by their position. Default true. */
  isRotary?: boolean;
  /** Factor on the scores. Default `1 / sqrt(D)`. */
  scale?: number;
  /** Number of positions that a query sees at most: its own and those before it. Default all. */
  window?: number;
  /** Bound c of the scores s, which become `c · tanh(s / c)`. Default none. */
  softCap?: number;
  /** Probability of dropping an attention weight in training. Default 0. */
  dropout?: number;
  /** Index of this layer's slot in the cache. Default 0. */
  layerIndex?: number;
  /** Storage type of the weights: float32, bfloat16 or float16. Default `float32`. */
  storage?: StorageDtype;
  weightInitializer?: Initializer | SerializedInitializer;
}

/** Arguments of the projections in a pass, in addition to their input. */
export interface ProjectionOptions {
  training?: boolean;
  seed?: number;
}

/** The tensors that a model computes once and passes to every attention layer of a forward pass. */
export interface AttentionContext {
  /** Default: positions 0 … T − 1. */
  rotary?: RotaryTables;
  /** `[B or 1, 1, T, S]`, see {@link causalBias}; for the layer's own `window`. Default: causal, hiding what `segments` hide. */
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
    headNorm: true,
    ropeTheta: true,
    ropeScaling: true,
    rotaryDim: true,
    isRotary: true,
    scale: true,
    window: true,
    softCap: true,
    dropout: true,
    layerIndex: true,
    storage: true,
    weightInitializer: true,
  } satisfies OptionNames<GroupedQueryAttentionArgs>;
  readonly heads: number;
  readonly keyValueHeads: number;
  headDim?: number;
  readonly useBias: boolean | 'qkv';
  readonly headNorm?: GroupedQueryAttentionArgs['headNorm'];
  readonly ropeTheta?: number;
  readonly ropeScaling?: RopeScaling;
  readonly rotaryDim?: number;
  readonly isRotary: boolean;
  readonly scale?: number;
  readonly window?: number;
  readonly softCap?: number;
  readonly dropout: number;
  readonly layerIndex: number;
  readonly storage: StorageDtype;
  readonly weightInitializer: Initializer;
  q_proj!: TransposedDense | LoRADense;
  k_proj!: TransposedDense | LoRADense;
  v_proj!: TransposedDense | LoRADense;
  o_proj!: TransposedDense | LoRADense;
  q_norm?: RMSNorm;
  k_norm?: RMSNorm;
  rotary_emb!: RotaryEmbedding;

  constructor(args: GroupedQueryAttentionArgs) {
    super(args);
    this.heads = args.heads;
    this.keyValueHeads = args.keyValueHeads ?? args.heads;
    this.headDim = args.headDim ?? undefined;
    this.useBias = args.useBias ?? false;
    this.headNorm = args.headNorm ?? undefined;
    this.ropeTheta = args.ropeTheta ?? undefined;
    this.ropeScaling = args.ropeScaling ?? undefined;
    this.rotaryDim = args.rotaryDim ?? undefined;
    this.isRotary = args.isRotary ?? true;
    this.scale = args.scale ?? undefined;
    this.window = args.window ?? undefined;
    this.softCap = args.softCap ?? undefined;
    this.dropout = args.dropout ?? 0;
    this.layerIndex = args.layerIndex ?? 0;
    this.storage = args.storage ?? 'float32';
    this.weightInitializer = toInitializer(args.weightInitializer ?? tf.initializers.glorotUniform({}));
  }

  override build(inputShape: tf.Shape | tf.Shape[]): void {
    const size = onlyShape(inputShape).at(-1) as number;
    this.headDim ??= size / this.heads;
    this.assertHeads(size);
    this.buildInputs(size, this.headDim);
    this.o_proj = this.project('o_proj', this.heads * this.headDim, size, this.useBias === true);
    if (this.headNorm) {
      this.q_norm = this.normalize('q_norm', this.headDim);
      this.k_norm = this.normalize('k_norm', this.headDim);
    }
    this.rotary_emb = new RotaryEmbedding({
      name: `${this.name}.rotary_emb`,
      headDim: this.rotaryDim ?? this.headDim,
      theta: this.ropeTheta,
      scaling: this.ropeScaling,
    });
    this.rotary_emb.built = true;
    this.built = true;
  }

  /** Makes the projections to queries, keys and values. A subclass may make others. */
  protected buildInputs(size: number, headDim: number): void {
    this.q_proj = this.project('q_proj', size, this.heads * headDim);
    this.k_proj = this.project('k_proj', size, this.keyValueHeads * headDim);
    this.v_proj = this.project('v_proj', size, this.keyValueHeads * headDim);
  }

  /** Projects `[N, C]` to queries `[N, H·D]`, and keys and values `[N, K·D]`. */
  protected projectInputs(
    x: tf.Tensor2D,
    options: ProjectionOptions,
  ): [tf.Tensor2D, tf.Tensor2D, tf.Tensor2D] {
    const [query, key, value] = [this.q_proj, this.k_proj, this.v_proj].map((layer) =>
      layer.apply(x, options),
    );
    return [query, key, value] as [tf.Tensor2D, tf.Tensor2D, tf.Tensor2D];
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

  /** Makes and builds one of the projections. */
  protected project(
    name: string,
    inputDim: number,
    units: number,
    useBias = this.useBias !== false,
  ): TransposedDense {
    const {storage, weightInitializer} = this;
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

  private normalize(name: string, headDim: number): RMSNorm {
    const norm = new RMSNorm({...this.headNorm, name: `${this.name}.${name}`});
    this.buildSublayer(norm, [null, headDim]);
    return norm;
  }

  /** Whether it computes what Llama's attention does, apart from biases and dropout. */
  get isPlain(): boolean {
    return (
      this.isRotary &&
      [this.headNorm, this.rotaryDim, this.scale, this.window, this.softCap].every((it) => it === undefined)
    );
  }

  override computeOutputShape(inputShape: tf.Shape | tf.Shape[]): tf.Shape {
    return onlyShape(inputShape);
  }

  override call(inputs: tf.Tensor | tf.Tensor[], context: AttentionContext = {}): tf.Tensor {
    return tf.tidy(() => {
      const {cache, bias, segments, training, seed} = context;
      const {layerIndex, scale, window, softCap} = this;
      const headDim = this.headDim as number;
      const x = onlyInput<tf.Tensor3D>(inputs); // [B, T, C]
      const [batch, length, size] = x.shape;
      const past = cache?.lengthOf(layerIndex) ?? 0;
      const rotary = context.rotary ?? this.rotary_emb.tables(length, past);
      const scoring = {scale, window, softCap};
      const finish = (attended: tf.Tensor2D) =>
        unflatten(this.o_proj.apply(attended, {training, seed}) as tf.Tensor2D, x);

      let [query, key, value] = this.projectInputs(flatten(x, size), {training, seed}); // [B·T, heads·D]
      if (this.q_norm && this.k_norm)
        [query, key] = [normalized(query, this.q_norm), normalized(key, this.k_norm)];
      const isKernel = hasKernel(decodeAttentionOp) && fitsKernel(headDim) && !this.rotaryDim;
      if (cache && past > 0 && length === 1 && !bias && isKernel) {
        const tables = this.isRotary ? rotary : unturned(rotary);
        const inputs = {query, key, value, ...tables, segments};
        return finish(cache.attend(layerIndex, inputs, scoring)); // [B, 1, C]
      }
      const byHead = (rows: tf.Tensor2D, isTurned: boolean) => {
        const heads = rows.reshape([batch, length, -1, headDim]).transpose([0, 2, 1, 3]); // [B, heads, T, D]
        return (isTurned ? this.rotary_emb.apply(heads, rotary) : heads) as tf.Tensor4D;
      };
      const q = byHead(query, this.isRotary);
      let [k, v] = [byHead(key, this.isRotary), byHead(value, false)];
      if (cache) [k, v] = cache.update(layerIndex, k, v); // [B, K, S, D]

      const dropped = training && {dropout: this.dropout, seed: seed && seed + hashName(this.name)};
      const attended = attention(q, k, v, {bias, causal: true, segments, ...scoring, ...dropped}); // [B, H, T, D]
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
      headNorm: this.headNorm ?? null,
      ropeTheta: this.ropeTheta ?? null,
      ropeScaling: this.ropeScaling ?? null,
      rotaryDim: this.rotaryDim ?? null,
      isRotary: this.isRotary,
      scale: this.scale ?? null,
      window: this.window ?? null,
      softCap: this.softCap ?? null,
      dropout: this.dropout,
      layerIndex: this.layerIndex,
      storage: this.storage,
      weightInitializer: serializeInitializer(this.weightInitializer),
    } as unknown as tf.serialization.ConfigDict;
  }
}
tf.serialization.registerClass(GroupedQueryAttention);

/** Normalizes each head of `[N, heads·D]`. */
function normalized(x: tf.Tensor2D, norm: RMSNorm): tf.Tensor2D {
  const [dim] = norm.weight.logicalShape;
  return (norm.apply(x.reshape([-1, dim])) as tf.Tensor).reshape(x.shape) as tf.Tensor2D;
}

/** Returns tables of the same shape that do not rotate. */
function unturned({cos, sin}: RotaryTables): RotaryTables {
  return {cos: tf.onesLike(cos), sin: tf.zerosLike(sin)};
}
