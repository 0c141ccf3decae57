import * as tf from '@tensorflow/tfjs';
import type {KeyValueCache} from '../../layers/keyValueCache.ts';
import {LoRADense} from '../../layers/loraDense.ts';
import {attentionOp} from '../../layers/ops/attention.ts';
import {causalBias} from '../../layers/ops/causalBias.ts';
import type {TokenChain} from '../../layers/ops/chainStarter.ts';
import {decoderStack, decoderStackOp, fitsDecoderStackKernel} from '../../layers/ops/decoderStack.ts';
import {decodeStack, decodeStackOp, fitsDecodeKernel} from '../../layers/ops/decodeStack.ts';
import {hasKernel} from '../../layers/ops/dispatch.ts';
import {gradientCheckpoint} from '../../layers/ops/gradientCheckpoint.ts';
import {
  type DecodeStackOptions,
  PROJECTIONS,
  type StackBlock,
  tensorsOfStack,
} from '../../layers/ops/stackBlock.ts';
import {type DenseMatrix, tensorsOf} from '../../layers/ops/storedMatrix.ts';
import {startTokenChain} from '../../layers/ops/tokenChain.ts';
import {RMSNorm} from '../../layers/rmsNorm.ts';
import type {RotaryEmbedding, RotaryTables} from '../../layers/rotaryEmbedding.ts';
import {TiedHead} from '../../layers/tiedHead.ts';
import {TokenEmbedding} from '../../layers/tokenEmbedding.ts';
import {TransposedDense} from '../../layers/transposedDense.ts';
import type {StorageDtype} from '../../quant/float16.ts';
import {assertKnownOptions} from '../../quant/knownOptions.ts';
import {type Batch, lossPass} from '../batchLoss.ts';
import {CausalLM, FORWARD_OPTIONS, type ForwardOptions} from '../causalLM.ts';
import {dropoutSeed} from '../dropoutSeed.ts';
import {embeddingNoise} from '../embeddingNoise.ts';
import type {LossPass} from '../lossPass.ts';
import type {LayerRange} from '../replaceLayer.ts';
import {
  formatConfig,
  type Json,
  LLAMA,
  type LlamaConfig,
  type LlamaConfigArgs,
  parameterCount,
  parseConfig,
} from './config.ts';
import {DecoderBlock} from './decoderBlock.ts';
import {hasPlainLayers, isOf, plainHead, plainStack} from './plainStack.ts';
import {presets} from './presets.ts';
import {replicateBlocks} from './replicateBlocks.ts';
import {assertConfig, resolveConfig} from './resolveConfig.ts';

/** Llama 3.2 (and 3.1, 3, 2) with its output head. Sub-layers are named as in Hugging Face's files. */
export class LlamaForCausalLM extends CausalLM<LlamaConfig> {
  static override className = 'LlamaForCausalLM';
  static override readonly modelType: string = LLAMA.modelType;
  static override readonly architecture: string = LLAMA.architecture;
  /** The only `hidden_act` that the family's configs may have. */
  static readonly hiddenAct: string = LLAMA.hiddenAct;
  /** Default values of keys, if they differ from Llama's, and of all keys that only the family has. */
  static readonly configDefaults: Json = {};
  /** Shapes of the family's published models. */
  static readonly presets: Record<string, LlamaConfigArgs> = presets;
  /** The class of the blocks. A family with different blocks overrides it. */
  static readonly blockClass: typeof DecoderBlock = DecoderBlock;
  /** Added to the weight of the last norm. */
  static readonly normOffset: number = 0;
  readonly embed_tokens: TokenEmbedding;
  readonly blocks: DecoderBlock[];
  /**
   * The ranges of layers that run one after the other by PEFT's `layer_replication`, if any; repeated layers share
   * their weights.
   */
  replication?: readonly LayerRange[];
  /** Blocks that a replication replaced, whose weights may belong to no other. */
  private replaced: DecoderBlock[] = [];
  readonly norm: RMSNorm;
  lm_head: TiedHead | TransposedDense | LoRADense;
  readonly rotary: RotaryEmbedding;
  private readonly stacks = new WeakMap<KeyValueCache, StackBlock[]>();

  /**
   * @param config see `resolveConfig`
   * @param storage storage type of the matrices in memory
   */
  constructor(config: LlamaConfig, storage: StorageDtype = 'float32') {
    assertConfig(config, new.target.name);
    const {vocabSize, hiddenSize, rmsNormEps: epsilon} = config;
    const {blockClass, normOffset: offset} = new.target;
    const scale = new.target.embeddingScale(config);
    const embedding = new TokenEmbedding({name: 'model.embed_tokens', vocabSize, hiddenSize, scale, storage});
    const blocks = Array.from(
      {length: config.numHiddenLayers},
      (_, layerIndex) => new blockClass({name: `model.layers.${layerIndex}`, config, layerIndex, storage}),
    );
    const norm = new RMSNorm({name: 'model.norm', epsilon, offset});
    const head = config.tieWordEmbeddings
      ? new TiedHead({name: 'lm_head', embedding})
      : new TransposedDense({name: 'lm_head', units: vocabSize, useBias: false, storage});

    const inputIds = tf.input({shape: [null], dtype: 'int32', name: 'input_ids'}); // [B, T]
    let hidden = embedding.apply(inputIds); // [B, T, C]
    for (const block of blocks) hidden = block.apply(hidden);
    const logits = head.apply(norm.apply(hidden)); // [B, T, vocabSize]
    super(
      {inputs: inputIds, outputs: logits as tf.SymbolicTensor, name: new.target.modelType},
      config,
      storage,
    );

    this.embed_tokens = embedding;
    this.blocks = blocks;
    this.norm = norm;
    this.lm_head = head;
    this.rotary = this.createRotary();
  }

  /** Returns the factor on the embedding's vectors. */
  static embeddingScale(_config: LlamaConfig): number {
    return 1;
  }

  /** Returns what makes the tables of a pass, which all blocks share. */
  protected createRotary(): RotaryEmbedding {
    return this.blocks[0].self_attn.rotary_emb;
  }

  /**
   * Runs ranges of blocks one after the other; repeated blocks share their weights. An adapter's `layerReplication`
   * calls it.
   *
   * @returns undoes it
   */
  replicateLayers(ranges: readonly LayerRange[]): () => void {
    const before = [...this.blocks];
    const {config} = this;
    const blocks = replicateBlocks(before, ranges);
    const put = (from: DecoderBlock[], to: DecoderBlock[]) => {
      this.layers.splice(this.layers.indexOf(from[0]), from.length, ...to);
      this.blocks.splice(0, from.length, ...to);
    };
    put(before, blocks);
    Object.assign(this, {
      config: {...config, numHiddenLayers: blocks.length},
      replication: ranges,
      replaced: before,
    });
    return () => {
      put(blocks, before);
      Object.assign(this, {config, replication: undefined, replaced: []});
    };
  }

  override dispose(): ReturnType<tf.LayersModel['dispose']> {
    if (!this.isDisposed) for (const block of this.replaced) block.disposeWeights();
    return super.dispose();
  }

  override forward(inputIds: tf.Tensor2D, options: ForwardOptions = {}): tf.Tensor3D {
    this.assertOwnCall('forward');
    assertKnownOptions('forward', options, FORWARD_OPTIONS);
    const {positionIds, rotary, cache} = options;
    return tf.tidy(() => {
      const pass = {...options, attentionMask: options.attentionMask?.toInt() as tf.Tensor2D | undefined};
      const tables =
        rotary ??
        (positionIds
          ? this.rotary.tablesAt(positionIds)
          : this.rotary.tables(inputIds.shape[1], cache?.length ?? 0));
      const vectors = this.embed_tokens.apply(inputIds) as tf.Tensor3D; // [B, T, C]
      const isNoisy = options.training && this.neftuneNoiseAlpha > 0;
      const embedded: tf.Tensor3D = isNoisy
        ? tf.add<tf.Tensor3D>(vectors, embeddingNoise(vectors.shape, this.neftuneNoiseAlpha, options.seed))
        : vectors;
      const ofStack = this.runStack(embedded, tables, pass);
      if (ofStack && isOf(this.norm, RMSNorm)) return this.norm.over(ofStack) as tf.Tensor3D; // [B, T, C]
      return this.norm.apply(ofStack ?? this.runBlocks(embedded, tables, pass)) as tf.Tensor3D;
    });
  }

  /** Runs all blocks in one op: a pass without a cache, or one new position. Returns undefined if no kernel fits. */
  private runStack(
    embedded: tf.Tensor3D,
    tables: RotaryTables,
    {attentionMask, cache, training = false}: ForwardOptions,
  ): tf.Tensor3D | undefined {
    const settings = this.stackSettings(tables, attentionMask);
    const [batch, length] = embedded.shape;
    if (cache) {
      const stack = cache.length > 0 && length === 1 ? this.decodedStack(cache) : undefined;
      if (!stack || !fitsDecodeKernel(stack, settings, batch)) return undefined;
      return cache.attendAll((caches, past) => decodeStack(embedded, stack, caches, past, settings));
    }
    const stack = hasKernel(decoderStackOp) ? plainStack(this.blocks, training) : undefined;
    if (!stack || !fitsDecoderStackKernel(stack, settings)) return undefined;
    const isInputTrained = this.embed_tokens.trainableWeights.length > 0;
    const isInputSpent = !isInputTrained && isOf(this.embed_tokens, TokenEmbedding); // no hook can have kept it
    const checkpointing = training && this.gradientCheckpointing;
    const hidden = decoderStack(embedded, stack, {...settings, checkpointing, isInputTrained, isInputSpent});
    if (isInputSpent) embedded.dispose(); // then only the result has the buffer
    return hidden;
  }

  /** Runs the blocks one by one, recomputing each in backward if gradient checkpointing is on. */
  private runBlocks(
    embedded: tf.Tensor3D,
    {cos, sin}: RotaryTables,
    {attentionMask, cache, training = false, seed: given}: ForwardOptions,
  ): tf.Tensor {
    const seed = dropoutSeed(given);
    const length = embedded.shape[1];
    // A bias of T×S numbers is made once for all blocks of a window, unless the kernel derives the mask itself.
    const isInKernel = hasKernel(attentionOp);
    const sourceLength = (cache?.length ?? 0) + length;
    const biases = new Map<number | undefined, tf.Tensor4D | undefined>();
    const biasOf = (window?: number) => {
      if (!biases.has(window)) biases.set(window, causalBias(length, sourceLength, attentionMask, window));
      return biases.get(window);
    };
    let hidden: tf.Tensor = embedded;
    for (const block of this.blocks) {
      const mask = isInKernel ? attentionMask : biasOf(block.self_attn.window);
      const constants = mask ? [cos, sin, mask] : [cos, sin];
      const run = (x: tf.Tensor, cos: tf.Tensor, sin: tf.Tensor, mask?: tf.Tensor) => {
        const masked = isInKernel ? {segments: mask} : {bias: mask};
        return block.apply(x, {rotary: {cos, sin}, ...masked, cache, training, seed}) as tf.Tensor;
      };
      const isLast = block === this.blocks.at(-1); // backward would recompute it immediately, which saves nothing
      hidden =
        training && this.gradientCheckpointing && !isLast
          ? gradientCheckpoint(run as (...tensors: tf.Tensor[]) => tf.Tensor, [hidden], {
              variables: block.trainableWeights.map((weight) => weight.read() as tf.Variable),
              constants,
              isOffloaded: this.gradientCheckpointing === 'offload',
            })
          : run(hidden, cos, sin, mask);
    }
    return hidden;
  }

  /**
   * A pass can be recorded if only adapters train, without dropout and offloading, and no layer is replaced or hooked.
   */
  override lossPass(batch: Batch, trained = this.trainableParameters().size): LossPass | undefined {
    this.assertOwnCall('training step');
    const state = batch.positionIds ? undefined : this.passState(trained);
    return state === undefined ? undefined : lossPass(this, batch, state);
  }

  /** Neither a subclass nor a hook can have kept the states that {@link forward} returns. */
  get handsOverStates(): boolean {
    return this.isUnchanged('forward') && isOf(this.norm, RMSNorm);
  }

  /** Describes everything in the model that a training pass depends on; undefined if more than adapters train. */
  private passState(trained: number): string | undefined {
    const {embed_tokens, norm, lm_head, gradientCheckpointing} = this;
    const isPlain =
      this.isUnchanged('forward', 'lossSum') &&
      this.neftuneNoiseAlpha === 0 &&
      isOf(embed_tokens, TokenEmbedding) &&
      embed_tokens.scale === 1 &&
      isOf(norm, RMSNorm) &&
      norm.offset === 0 &&
      plainHead(lm_head) !== undefined;
    const blocks = isPlain ? plainStack(this.blocks, true) : undefined;
    if (!blocks || lm_head instanceof LoRADense || gradientCheckpointing === 'offload') return undefined;
    const adapters = blocks.flatMap((block) => PROJECTIONS.map((name) => block[name].lora));
    if (trained !== 2 * adapters.filter((lora) => lora !== undefined).length) return undefined;
    const head = Object.values(tensorsOf(lm_head.weight.matrix()));
    const tensors = [
      ...Object.values(tensorsOfStack(blocks)),
      embed_tokens.weight.read(),
      norm.weight.read(),
      ...head,
    ];
    return `${gradientCheckpointing} ${adapters.map((lora) => lora?.scaling)} ${tensors.map(({id}) => id)}`;
  }

  /** Peers scale the embedding before or after the noise, which depends on the family. */
  protected override get addsEmbeddingNoise(): boolean {
    const {embeddingScale} = this.constructor as typeof LlamaForCausalLM;
    return this.isUnchanged('forward') && embeddingScale(this.config) === 1;
  }

  /** Whether one op may compute its blocks: those of Llama, without biases. */
  get hasPlainBlocks(): boolean {
    return this.blocks.every(hasPlainLayers);
  }

  /** Whether these methods are this class's own. */
  private isUnchanged(...names: ('forward' | 'logitsOf' | 'lossSum')[]): boolean {
    return names.every((name) => Reflect.get(this, name) === Reflect.get(LlamaForCausalLM.prototype, name));
  }

  /** Returns what the ops that run all blocks take besides weights and caches; `segments` is an attention mask, int32. */
  private stackSettings({cos, sin}: RotaryTables, segments?: tf.Tensor2D): DecodeStackOptions {
    const {numAttentionHeads: heads, numKeyValueHeads: keyValueHeads, rmsNormEps: epsilon} = this.config;
    return {heads, keyValueHeads, epsilon, cos, sin, segments};
  }

  /** Starts a chain of greedy passes; see `DecodedModel`. */
  startChain(cache: KeyValueCache, tables: RotaryTables, mask?: tf.Tensor2D): TokenChain | undefined {
    const {embed_tokens, norm, lm_head} = this;
    const settings = this.stackSettings(tables, mask);
    const isPlain =
      isOf(embed_tokens, TokenEmbedding) &&
      embed_tokens.scale === 1 &&
      isOf(norm, RMSNorm) &&
      norm.offset === 0 &&
      norm.epsilon === settings.epsilon;
    const [blocks, head] = [this.decodedStack(cache), plainHead(lm_head)];
    if (!this.isUnchanged('forward', 'logitsOf') || !isPlain || !blocks || !head) return undefined;
    const table = embed_tokens.weight.matrix() as DenseMatrix;
    return startTokenChain({table, blocks, norm: norm.weight.read(), head}, [...cache.tensors], settings);
  }

  /**
   * Returns the blocks for `decodeStack`, if they are plain enough, and keeps them for the cache. Blocks that are not
   * may become so when rows leave the batch.
   */
  private decodedStack(cache: KeyValueCache): StackBlock[] | undefined {
    if (!hasKernel(decodeStackOp)) return undefined;
    const stack = this.stacks.get(cache) ?? plainStack(this.blocks, false);
    if (stack) this.stacks.set(cache, stack);
    return stack;
  }

  /** Returns the contents of this model's `config.json`. */
  override formatConfig(dtype: StorageDtype): Json {
    return formatConfig(this.config, dtype, this.constructor as typeof LlamaForCausalLM);
  }

  static override parseConfig(json: Json, where: string): LlamaConfig {
    return parseConfig(json, where, this);
  }

  static override resolveConfig(source: string | LlamaConfigArgs | Json): LlamaConfig {
    // A class may also read keys of its own in its own parseConfig.
    const hasOwnKeys = !Object.hasOwn(this, 'configDefaults') && Object.hasOwn(this, 'parseConfig');
    return resolveConfig(source, this, hasOwnKeys && this !== LlamaForCausalLM);
  }

  static override parameterCount = parameterCount;
}
