import * as tf from '@tensorflow/tfjs';
import {KeyValueCache} from '../layers/keyValueCache.ts';
import {assertShape} from '../layers/ops/assertShape.ts';
import {backendTraits} from '../layers/ops/backendTraits.ts';
import type {GradientCheckpointing} from '../layers/ops/gradientCheckpointing.ts';
import {softCap} from '../layers/ops/softCap.ts';
import {type Parameter, withoutAllocation} from '../layers/parameter.ts';
import type {RotaryTables} from '../layers/rotaryEmbedding.ts';
import {assertStorageDtype} from '../quant/assertStorageDtype.ts';
import {TfjsLoraError} from '../quant/errors.ts';
import type {StorageDtype} from '../quant/float16.ts';
import type {FolderSource, FolderTarget} from '../quant/folders/openFolder.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import {assertInputIds, assertRows} from './assertInputIds.ts';
import {
  type Batch,
  labelStates,
  lossSum,
  type TokenLosses,
  type TokenLossesOptions,
  targetCount,
  tokenLosses,
} from './batchLoss.ts';
import {type ChatOptions, chat, generate, stream} from './generation/generate.ts';
import type {GenerateOptions, Prompt} from './generation/generateOptions.ts';
import type {GenerationConfig} from './generationConfig.ts';
import {type SaveAdapterGgufOptions, saveAdapterGguf} from './gguf/saveAdapterGguf.ts';
import {type SaveGgufOptions, type SaveGgufResult, saveGguf} from './gguf/saveGguf.ts';
import {initializeWeights} from './initializeWeights.ts';
import {type LoadOptions, loadPretrained} from './loadPretrained.ts';
import type {LossPass} from './lossPass.ts';
import type {CausalLMConfig, ModelClass} from './modelClass.ts';
import {namesOfRows} from './namesOfRows.ts';
import {AdaptableModel} from './peft/adaptableModel.ts';
import {refuseTraining} from './refuseTraining.ts';
import {RESIZE_VOCAB_OPTIONS, type ResizeVocabOptions, resizeTables} from './resizeVocab.ts';
import {type SaveOptions, savePretrained} from './savePretrained.ts';
import type {ChatMessage, Tokenizer} from './tokenizer.ts';
import {
  type LoadValueHeadOptions,
  newValueHead,
  readValueHead,
  type ValueHeadOptions,
} from './valueHeadFile.ts';
import {type ValueBatch, type ValueOptions, valuesOf} from './values.ts';

export interface ForwardOptions {
  /**
   * `[B, past + T]` int32, or for one new position as long as the cache's room: 1 for a real token, 0 for padding;
   * 1, 2, 3 … for sequences packed into one row. Default: all are real.
   */
  attentionMask?: tf.Tensor2D;
  /** `[B, T]`. Default: the positions after those in the cache. Pass rows if tensors are only read asynchronously. */
  positionIds?: ArrayLike<number>[] | tf.Tensor2D;
  /** Rotary tables of the positions, instead of `positionIds`. */
  rotary?: RotaryTables;
  /** Keys and values of earlier tokens. This pass appends its own. */
  cache?: KeyValueCache;
  /** Whether dropout and recomputation are on. Default false. */
  training?: boolean;
  /** Seed that makes dropout repeatable. */
  seed?: number;
}
/** The options of a forward pass. */
export const FORWARD_OPTIONS = {
  attentionMask: true,
  positionIds: true,
  rotary: true,
  cache: true,
  training: true,
  seed: true,
} satisfies OptionNames<ForwardOptions>;

export interface PredictOptions extends Pick<ForwardOptions, 'attentionMask' | 'positionIds'> {
  /**
   * Name of the adapter for each row, or one name for all; `__base__` means no adapter. Default: the active adapters.
   */
  adapterNames?: string | readonly string[];
  /** Ignored: the whole batch is computed together. */
  batchSize?: number;
  /** Ignored. */
  verbose?: boolean;
}
const PREDICT_OPTIONS = {
  attentionMask: true,
  positionIds: true,
  adapterNames: true,
  batchSize: true,
  verbose: true,
} satisfies OptionNames<PredictOptions>;

export interface FromConfigOptions {
  /** Storage type of the matrices. Default `float32`, the only type that allows full training. */
  dtype?: StorageDtype;
  /** Seed for the random initial weights. Default 0. */
  seed?: number;
  /** Whether to allocate the weights. If false, they are only declared, to be counted or filled later. Default true. */
  allocate?: boolean;
}
const TOKEN_LOSSES_OPTIONS = {
  training: true,
  seed: true,
  values: true,
  temperature: true,
  formula: true,
  reference: true,
  referenceModel: true,
} satisfies OptionNames<TokenLossesOptions>;

export interface AddTokensOptions extends ResizeVocabOptions {
  /** Whether the tokens are special, which decoding leaves out. Default false. */
  special?: boolean;
}
const ADD_TOKENS_OPTIONS = {...RESIZE_VOCAB_OPTIONS, special: true} satisfies OptionNames<AddTokensOptions>;

const FROM_CONFIG_OPTIONS = {
  dtype: true,
  seed: true,
  allocate: true,
} satisfies OptionNames<FromConfigOptions>;

/**
 * A decoder-only language model as a `tf.LayersModel`: weights under Hugging Face's names, LoRA adapters, loss,
 * generation and files. A subclass adds the graph: a constructor, {@link forward}, `lm_head` and its config.
 */
export abstract class CausalLM<Config extends CausalLMConfig = CausalLMConfig> extends AdaptableModel {
  tokenizer?: Tokenizer;
  generationConfig: GenerationConfig = {};
  private checkpointing: GradientCheckpointing = true;
  private noiseAlpha = 0;
  private isVocabResized = false;

  /**
   * @param container the symbolic graph, as for `tf.model`
   * @param storage storage type of the matrices in memory
   */
  constructor(
    container: ConstructorParameters<typeof tf.LayersModel>[0],
    readonly config: Config,
    storage: StorageDtype,
  ) {
    super(container, storage);
  }

  /**
   * Whether the backward pass recomputes each block from its input instead of keeping its intermediates. With
   * `'offload'`, the inputs are kept in host memory and copied back to the graphics card one by one; on backends whose
   * memory is the host's, it means true. Default true.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` when set to anything else
   */
  get gradientCheckpointing(): GradientCheckpointing {
    return this.checkpointing;
  }

  set gradientCheckpointing(value: GradientCheckpointing) {
    if (typeof value !== 'boolean' && value !== 'offload') {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `gradientCheckpointing: expected true, false or 'offload', got ${JSON.stringify(value)}`,
      );
    }
    this.checkpointing = value;
  }

  /**
   * NEFTune: the size of random noise on the embedding in training, usually 5 to 15; see `embeddingNoise`. Passes with
   * noise are not recorded for replay. Default 0: no noise.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` when set to anything but a number from 0; `UNSUPPORTED` for a family that
   *   scales its embedding, or has its own `forward`
   */
  get neftuneNoiseAlpha(): number {
    return this.noiseAlpha;
  }

  set neftuneNoiseAlpha(alpha: number) {
    if (!(alpha >= 0 && Number.isFinite(alpha))) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `neftuneNoiseAlpha: expected a number from 0, got ${JSON.stringify(alpha)}`,
      );
    }
    if (alpha > 0 && !this.addsEmbeddingNoise) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `neftuneNoiseAlpha: expected 0 for ${this.getClassName()}, which does not add noise to its embedding, got ${alpha}`,
      );
    }
    this.noiseAlpha = alpha;
  }

  /** Whether {@link forward} adds the noise of {@link neftuneNoiseAlpha}. */
  protected get addsEmbeddingNoise(): boolean {
    return false;
  }

  /**
   * Computes the hidden states after the last norm, differentiable with respect to the trained weights.
   *
   * @param inputIds `[B, T]` int32
   * @returns `[B, T, C]` float32
   */
  abstract forward(inputIds: tf.Tensor2D, options?: ForwardOptions): tf.Tensor3D;

  /** The `model_type` of this model's family. */
  get modelType(): string {
    return (this.constructor as typeof CausalLM).modelType;
  }

  /** Returns the contents of this model's `config.json`. */
  abstract formatConfig(dtype: StorageDtype): Record<string, unknown>;

  /** The `model_type` in the family's `config.json`; each family has its own. */
  static readonly modelType: string = '';

  /** Name of the class in transformers, for `architectures` in `config.json`; each family has its own. */
  static readonly architecture: string = '';

  /** Reads the contents of a `config.json`. `where` names the file in errors. */
  static parseConfig(_json: Record<string, unknown>, _where: string): CausalLMConfig {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${this.name}: expected the class to define parseConfig, got none`,
    );
  }

  /** Makes a complete config from the argument of `fromConfig`. */
  static resolveConfig(_source: never): CausalLMConfig {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${this.name}: expected the class to define resolveConfig, got none`,
    );
  }

  /** Returns the number of weights in a model of this config, which its files must hold. Default 0: not checked. */
  static parameterCount(_config: never): number {
    return 0;
  }

  // --- construction -----------------------------------------------------------------------------------------------

  /** Makes a model with new weights: matrices normal(0, initializerRange), norms one, biases zero. */
  static override fromConfig<T extends CausalLM>(
    this: ModelClass<T>,
    source: string | object,
    options?: FromConfigOptions,
  ): T;
  static override fromConfig<T extends tf.serialization.Serializable>(
    cls: tf.serialization.SerializableConstructor<T>,
    config: tf.serialization.ConfigDict,
  ): T;
  static override fromConfig<T extends CausalLM>(
    this: ModelClass<T>,
    source: string | object,
    options: FromConfigOptions = {},
  ): T {
    assertKnownOptions('fromConfig', options, FROM_CONFIG_OPTIONS);
    assertStorageDtype('fromConfig dtype', options.dtype);
    const {dtype = 'float32', seed = 0, allocate = true} = options;
    const config = this.resolveConfig(source as never);
    const model = withoutAllocation(() => new this(config as never, dtype));
    if (allocate) initializeWeights(model.layers, config.initializerRange, seed);
    return model;
  }

  /**
   * Loads a Hugging Face folder from disk, from a URL, or from a browser's files: `config.json`, `model.safetensors`
   * (or shards), and if present `generation_config.json`, the tokenizer and its chat template. Weights load tensor by
   * tensor.
   *
   * With `quantization` (QLoRA), the linear layers are quantized as they load, so the whole 16-bit model is never in
   * memory. A folder in bitsandbytes' format loads as it is.
   *
   * @throws TfjsLoraError `FILE_NOT_FOUND`, `CORRUPT_FILE`, `INVALID_CONFIG`, `MISSING_TENSOR`,
   *   `UNEXPECTED_TENSOR`, `SHAPE_MISMATCH`, `NON_FINITE`, `VOCABULARY_MISMATCH`, `UNSUPPORTED`
   * @example
   * ```ts
   * import {Llama} from 'tfjs-lora';
   *
   * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct', {
   *   quantization: {type: 'nf4', doubleQuant: true}, // QLoRA; leave it out for 16 bits
   * });
   * ```
   */
  static async fromPretrained<T extends CausalLM>(
    this: ModelClass<T>,
    source: FolderSource,
    options?: LoadOptions,
  ): Promise<T> {
    return loadPretrained(() => this, source, options);
  }

  // --- computation ------------------------------------------------------------------------------------------------

  /** Bound of the logits, see {@link softCap}; undefined if they have none. */
  get logitBound(): number | undefined {
    return undefined;
  }

  /** Computes the logits `[..., vocabSize]` of hidden states `[..., C]`. */
  logitsOf(hidden: tf.Tensor): tf.Tensor {
    this.assertOwnCall('logitsOf');
    const logits = this.lm_head.apply(hidden) as tf.Tensor;
    return this.logitBound === undefined ? logits : softCap(logits, this.logitBound);
  }

  override call(inputs: tf.Tensor | tf.Tensor[], options: ForwardOptions = {}): tf.Tensor {
    const inputIds = (Array.isArray(inputs) ? inputs[0] : inputs) as tf.Tensor2D;
    return tf.tidy(() => this.logitsOf(this.forward(inputIds.toInt(), options)));
  }

  /**
   * Computes the logits of a batch of token ids, `[B, T]` → `[B, T, vocabSize]` float32.
   *
   * @throws TfjsLoraError `VOCABULARY_MISMATCH` for an id the model does not have, `INVALID_ARGUMENT` for a
   *   sequence longer than `maxPositionEmbeddings`, another number of `adapterNames` than rows, or merged adapters with
   *   them; `UNKNOWN_ADAPTER`
   */
  override predict(
    inputIds: tf.Tensor | tf.Tensor[] | number[][],
    options: PredictOptions = {},
  ): tf.Tensor3D {
    this.assertUsable();
    assertKnownOptions('predict', options, PREDICT_OPTIONS);
    const {adapterNames, ...pass} = options;
    const given = inputIds instanceof tf.Tensor ? inputIds : Array.isArray(inputIds) ? inputIds[0] : inputIds;
    if (given instanceof tf.Tensor) assertShape('predict inputIds', given, [-1, -1]);
    else assertRows('predict inputIds', inputIds as number[][]);
    const compute = () =>
      tf.tidy(() => {
        const ids =
          given instanceof tf.Tensor ? given : tf.tensor2d(inputIds as number[][], undefined, 'int32');
        // A tensor on a card cannot be read here. An invalid id there gives useless logits, but does no harm.
        if (!(given instanceof tf.Tensor)) this.assertFits(inputIds as number[][]);
        else if (backendTraits().readsAtOnce) this.assertFits(ids.arraySync() as number[][]);
        return this.call(ids, pass as ForwardOptions) as tf.Tensor3D;
      });
    if (adapterNames === undefined) {
      this.assertOwnCall('predict');
      return compute();
    }
    const count = given instanceof tf.Tensor ? given.shape[0] : (inputIds as number[][]).length;
    const rows = this.rowAdapters(namesOfRows('predict', adapterNames, count));
    try {
      return rows.run(compute);
    } finally {
      rows.dispose();
    }
  }

  /** Checks the ids and the length of token sequences against the model. */
  assertFits(inputIds: ArrayLike<number>[]): void {
    assertInputIds(inputIds, this.config);
  }

  /**
   * Sums the cross-entropy over the labels that count (shifted inside, as in Hugging Face; −100 is ignored). The sum is
   * differentiable. Divide it by the {@link targetCount} of all micro-batches that share an optimizer step.
   */
  lossSum(batch: Batch, options: {training?: boolean; seed?: number} = {}): tf.Scalar {
    this.assertOwnCall('lossSum');
    assertKnownOptions('lossSum', options, {training: true, seed: true});
    return lossSum(this, batch, options);
  }

  /**
   * Returns the pass of {@link lossSum} in training for recording; undefined if it cannot be recorded.
   *
   * @param _trained number of weights that train, if it is known
   */
  lossPass(_batch: Batch, _trained?: number): LossPass | undefined {
    return undefined;
  }

  /**
   * Computes the cross-entropy of each label that counts, for losses that weigh labels or compare rows. The result is
   * differentiable, and its sum is {@link lossSum}. Logits are computed for only some of the labels at a time.
   */
  tokenLosses(batch: Batch, options: TokenLossesOptions = {}): TokenLosses {
    this.assertOwnCall('tokenLosses');
    assertKnownOptions('tokenLosses', options, TOKEN_LOSSES_OPTIONS);
    return tokenLosses(this, batch, options);
  }

  /**
   * Computes the hidden states `[N, C]` that predict the labels that count, without gradients and dropout: the reference
   * of {@link tokenLosses}.
   */
  labelStates(batch: Batch): tf.Tensor2D {
    this.assertOwnCall('labelStates');
    return labelStates(this, batch);
  }

  /**
   * Adds a value head with random weights, which trains beside the adapter or the model: `v_head.summary` in files and
   * names. {@link saveAdapter} and {@link save} write it as `value_head.safetensors`.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` for a model that has one, or a dropout out of range
   */
  addValueHead(options: ValueHeadOptions = {}): this {
    this.assertChangeable('addValueHead');
    assertKnownOptions('addValueHead', options, {dropout: true, seed: true});
    this.assertHeadless('addValueHead');
    const {dropout = this.config.summaryDropoutProb, seed} = options;
    this.layers.push(newValueHead(this.config.hiddenSize, {dropout, seed}));
    return this;
  }

  /**
   * Adds the value head of a folder's `value_head.safetensors`, as LLaMA-Factory and {@link saveAdapter} write it. It is
   * frozen unless `trainable`.
   *
   * @throws TfjsLoraError `FILE_NOT_FOUND`, `CORRUPT_FILE`, `MISSING_TENSOR`, `UNEXPECTED_TENSOR`, `SHAPE_MISMATCH`,
   *   `NON_FINITE`; `INVALID_ARGUMENT` for a model that has one
   */
  async loadValueHead(folder: FolderSource, options: LoadValueHeadOptions = {}): Promise<this> {
    this.assertChangeable('loadValueHead');
    assertKnownOptions('loadValueHead', options, {dropout: true, trainable: true});
    this.assertHeadless('loadValueHead');
    const {dropout = this.config.summaryDropoutProb, trainable = false} = options;
    const head = await readValueHead(folder, this.config.hiddenSize, {dropout});
    head.trainable = trainable;
    this.layers.push(head);
    return this;
  }

  /** Removes the value head and frees its weights. Does nothing for a model without one. */
  removeValueHead(): this {
    this.assertChangeable('removeValueHead');
    const {valueHead} = this;
    if (!valueHead) return this;
    this.layers.splice(this.layers.indexOf(valueHead), 1);
    valueHead.dispose();
    return this;
  }

  /**
   * Runs the value head on the hidden states after the last norm, differentiable with respect to the trained weights.
   * {@link tokenLosses} computes values and losses in one pass.
   *
   * @returns `[B, T]` float32; with `at`, `[B]`
   * @throws TfjsLoraError `UNSUPPORTED` for a model without a value head; `SHAPE_MISMATCH`, `VOCABULARY_MISMATCH`,
   *   `INVALID_ARGUMENT`
   */
  values(batch: ValueBatch, options: ValueOptions = {}): tf.Tensor {
    this.assertOwnCall('values');
    return valuesOf(this, batch, options);
  }

  private assertHeadless(call: string): void {
    if (!this.valueHead) return;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${call}: expected a model without a value head, got one. Call removeValueHead() first.`,
    );
  }

  /**
   * Changes the size of the vocabulary, as transformers' `resize_token_embeddings` does: the embedding, and a head that
   * is not tied to it, lose their last rows or get new rows, which are drawn at random. {@link saveAdapter} then also
   * writes these tables, as PEFT does.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT`; `UNSUPPORTED` for a model with adapters, or whose head is quantized
   * @example
   * ```ts
   * import {Llama} from 'tfjs-lora';
   *
   * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
   * model.addTokens(['<bill>', '</bill>'], {special: true, padToMultipleOf: 64});
   * model.applyLoRA({rank: 8, modulesToSave: ['embed_tokens', 'lm_head'], ensureWeightTying: true});
   * ```
   */
  resizeVocab(size: number, options: ResizeVocabOptions = {}): this {
    this.assertChangeable('resizeVocab');
    if (this.adapterNames.length > 0) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `resizeVocab: expected a model without adapters, got ${this.adapterNames.join(', ')}. Resize before applyLoRA.`,
      );
    }
    const vocabSize = resizeTables(this, size, options);
    Object.assign(this, {config: {...this.config, vocabSize}});
    this.isVocabResized = true;
    return this;
  }

  /**
   * Adds tokens to the tokenizer, and rows for them to the model if it has too few; see {@link resizeVocab}. Tokens
   * that are already in the vocabulary keep their ids. {@link save} and the tokenizer's own `save` write the tokenizer.
   *
   * @throws TfjsLoraError `UNSUPPORTED` without a tokenizer, and as {@link resizeVocab}; `INVALID_ARGUMENT`
   */
  addTokens(tokens: string[], options: AddTokensOptions = {}): this {
    this.assertChangeable('addTokens');
    assertKnownOptions('addTokens', options, ADD_TOKENS_OPTIONS);
    const {special, ...resizing} = options;
    if (!this.tokenizer)
      throw new TfjsLoraError('UNSUPPORTED', 'addTokens: expected a model with a tokenizer, got none');
    const tokenizer = this.tokenizer.withTokens(tokens, {special});
    if (tokenizer.vocabSize > this.config.vocabSize) this.resizeVocab(tokenizer.vocabSize, resizing);
    this.tokenizer = tokenizer;
    return this;
  }

  /** The tables that {@link resizeVocab} changed, by the names of their layers. */
  get resizedTables(): Map<string, Parameter> {
    if (!this.isVocabResized) return new Map();
    const tables = ['embed_tokens.weight', 'lm_head.weight'];
    const own = [...this.namedParameters()].filter(([name]) => tables.some((table) => name.endsWith(table)));
    return new Map(own.map(([name, parameter]) => [name.slice(0, name.lastIndexOf('.')), parameter]));
  }

  /** Returns the number of labels that count in a batch. */
  targetCount(batch: Batch): number {
    return targetCount(batch);
  }

  /** Returns an empty cache for {@link forward}, for any number of rows. The caller disposes it. */
  newCache(): KeyValueCache {
    return new KeyValueCache();
  }

  /**
   * Continues one prompt or several; see {@link GenerateOptions}. Each call creates its own key-value cache and frees
   * it at the end.
   *
   * @param prompt text, or token ids, which are used as they are
   * @returns the new text only, without special tokens; a list for a list of prompts
   * @throws TfjsLoraError `INVALID_ARGUMENT`, `VOCABULARY_MISMATCH`, `NON_FINITE`; `UNSUPPORTED` without a tokenizer
   */
  generate(prompt: Prompt, options?: GenerateOptions): Promise<string>;
  generate(prompts: string[] | number[][], options?: GenerateOptions): Promise<string[]>;
  generate(prompts: never, options?: GenerateOptions): Promise<string | string[]> {
    this.assertUsable();
    return generate(this, prompts, options);
  }

  /**
   * Generates as {@link generate} does for one prompt, and yields the text piece by piece. Leaving the loop early frees
   * the cache.
   */
  stream(prompt: Prompt, options?: GenerateOptions): AsyncGenerator<string, void, undefined> {
    this.assertUsable();
    return stream(this, prompt, options);
  }

  /**
   * Generates the assistant's next turn in a conversation, with the tokenizer's chat template.
   *
   * @throws TfjsLoraError as {@link generate}; `UNSUPPORTED` when the tokenizer has no chat template
   */
  chat(messages: ChatMessage[], options?: ChatOptions): Promise<string> {
    this.assertUsable();
    return chat(this, messages, options);
  }

  // --- files ------------------------------------------------------------------------------------------------------

  /**
   * Writes a Hugging Face folder that transformers loads: config, weights in shards, generation config, tokenizer.
   * Adapters must be merged first, because they would be lost otherwise.
   *
   * @param folder a path, or a `Map` that receives the files as `Blob`s where there is no disk
   */
  override async save(
    folder: FolderTarget | tf.io.IOHandler,
    options: SaveOptions | tf.io.SaveConfig = {},
  ): Promise<tf.io.SaveResult> {
    this.assertUsable();
    if (typeof folder === 'object' && 'save' in folder) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        'save: expected a folder for Hugging Face files, got an IOHandler',
      );
    }
    return savePretrained(this, folder as FolderTarget, options as SaveOptions);
  }

  /**
   * Writes a GGUF file for llama.cpp, Ollama and other programs: the weights in `type`, the config, the tokenizer and
   * its chat template. Adapters must be merged first, because they would be lost otherwise; {@link saveAdapterGguf}
   * writes an adapter alone. Only one tensor of the file is in memory at a time.
   *
   * The blocks of `q8_0` and the other quantized types are those that llama.cpp's own quantizer makes without an
   * importance matrix, byte for byte. A quantized model is dequantized first.
   *
   * @param folder a path, or a `Map` that receives the file as a `Blob` where there is no disk
   * @throws TfjsLoraError `UNSUPPORTED` for a family, a tokenizer or a setting that llama.cpp does not have;
   *   `INVALID_ARGUMENT` for an unmerged adapter; `NON_FINITE` for a value that `f16` does not have; the signal's
   *   reason
   * @example
   * ```ts
   * import {Llama} from 'tfjs-lora';
   *
   * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
   * await model.loadAdapter('adapter');
   * model.mergeLoRA();
   * await model.saveGguf('exported', {type: 'q4_k_m'}); // exported/model-q4_k_m.gguf
   * ```
   */
  async saveGguf(folder: FolderTarget, options?: SaveGgufOptions): Promise<SaveGgufResult> {
    this.assertUsable();
    return saveGguf(this, folder, options);
  }

  /**
   * Writes an adapter as a GGUF file, which llama.cpp adds to a base in another GGUF file (`--lora`). The scale and
   * alpha of each layer, including rsLoRA and `alphaPattern`, are written exactly.
   *
   * @param folder a path, or a `Map` that receives the file as a `Blob` where there is no disk
   * @throws TfjsLoraError `UNSUPPORTED` for what GGUF cannot store: DoRA, biases, modules that were trained whole, an
   *   adapter of a tied head or of a changed base, other kinds than LoRA; merge such an adapter and write the model
   */
  async saveAdapterGguf(folder: FolderTarget, options?: SaveAdapterGgufOptions): Promise<SaveGgufResult> {
    this.assertUsable();
    return saveAdapterGguf(this, folder, options);
  }
}
refuseTraining(CausalLM.prototype);
