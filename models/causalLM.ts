import * as tf from '@tensorflow/tfjs';
import type {KeyValueCache} from '../layers/keyValueCache.ts';
import {KeyValueCache as Cache} from '../layers/keyValueCache.ts';
import type {LoRADense, MergeOptions} from '../layers/loraDense.ts';
import {ModuleLayer, namedParameters, walk, writeWeights} from '../layers/moduleLayer.ts';
import {assertShape} from '../layers/ops/assertShape.ts';
import {asynchronousBackends} from '../layers/ops/dispatch.ts';
import {type Parameter, withoutAllocation} from '../layers/parameter.ts';
import type {QuantizationType} from '../layers/quantizationArgs.ts';
import type {RotaryTables} from '../layers/rotaryEmbedding.ts';
import {nearestNames, TfjsLoraError} from '../quant/errors.ts';
import type {StorageDtype} from '../quant/float16.ts';
import {type FolderSource, type FolderTarget, openFolder} from '../quant/folders/openFolder.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import {warn} from '../quant/warn.ts';
import {assertIdle} from './assertIdle.ts';
import {type Batch, lossSum, targetCount} from './batchLoss.ts';
import {
  assertFilesHold,
  assertTensors,
  LOAD_OPTIONS,
  type LoadOptions,
  loadWeights,
  type SaveOptions,
  savePretrained,
  storageOf,
} from './checkpoint.ts';
import {
  type ChatOptions,
  chat,
  type GenerateOptions,
  generate,
  type Prompt,
  stream,
} from './generation/generate.ts';
import {type GenerationConfig, readGenerationConfig} from './generationConfig.ts';
import {initializeWeights} from './initializeWeights.ts';
import {readJsonOf} from './jsonFile.ts';
import {ModelCheckpoint} from './modelCheckpoint.ts';
import {type LoadAdapterOptions, loadAdapter, saveAdapter} from './peft/adapterFiles.ts';
import {AdapterSet} from './peft/adapterSet.ts';
import type {LoRAOptions} from './peft/loraOptions.ts';
import {
  dequantizeLayers,
  type QuantizationOptions,
  quantizeLayers,
  resolveQuantizationOptions,
} from './quantization.ts';
import {declareQuantization, parseQuantizationConfig} from './quantizationConfig.ts';
import {printSummary} from './summary.ts';
import {type ChatMessage, Tokenizer} from './tokenizer.ts';

export interface ForwardOptions {
  /** `[B, past + T]` int32, or longer for one new position on the cache's room: 1 a real token, 0 padding; 1, 2, 3 … sequences packed into one row. Default all real. */
  attentionMask?: tf.Tensor2D;
  /** `[B, T]`. Default the positions after those in the cache. Rows where the backend cannot read a tensor at once. */
  positionIds?: ArrayLike<number>[] | tf.Tensor2D;
  /** The tables of the positions, in place of `positionIds`. */
  rotary?: RotaryTables;
  /** Keys and values of earlier tokens; this pass's are added. */
  cache?: KeyValueCache;
  /** Switches dropout and recomputation on. Default false. */
  training?: boolean;
  /** Makes dropout repeatable. */
  seed?: number;
}
/** What a forward pass takes. */
export const FORWARD_OPTIONS = {
  attentionMask: true,
  positionIds: true,
  rotary: true,
  cache: true,
  training: true,
  seed: true,
} satisfies OptionNames<ForwardOptions>;

const PREDICT_OPTIONS = {attentionMask: true, positionIds: true, batchSize: true, verbose: true} as const;

export interface FromConfigOptions {
  /** How the matrices are stored. Default `float32`, the only type that trains in full. */
  dtype?: StorageDtype;
  /** Of the weights' draw. Default 0. */
  seed?: number;
  /** False: declare the weights only, to count them or fill them later. Default true. */
  allocate?: boolean;
}
const FROM_CONFIG_OPTIONS = {
  dtype: true,
  seed: true,
  allocate: true,
} satisfies OptionNames<FromConfigOptions>;

/** What every model config has. */
export interface CausalLMConfig {
  vocabSize: number;
  hiddenSize: number;
  numHiddenLayers: number;
  maxPositionEmbeddings: number;
  initializerRange: number;
  bosTokenId?: number;
  eosTokenId?: number | number[];
  padTokenId?: number;
  /** Whether the output head is the embedding table. */
  tieWordEmbeddings?: boolean;
}

type ModelClass<T> = (new (
  config: never,
  storage?: StorageDtype,
) => T) &
  Pick<typeof CausalLM, 'parseConfig' | 'resolveConfig' | 'parameterCount'>;

/**
 * A decoder-only language model as a `tf.LayersModel`: weights in Hugging Face's names, LoRA adapters, loss,
 * generation and files. A subclass brings the graph: a constructor, {@link forward}, `lm_head` and its config.
 */
export abstract class CausalLM<Config extends CausalLMConfig = CausalLMConfig> extends tf.LayersModel {
  /** `[..., C]` → `[..., vocabSize]`. */
  abstract lm_head: tf.layers.Layer;
  /** Recompute each block in backward instead of keeping its intermediates. Default true. */
  gradientCheckpointing = true;
  tokenizer?: Tokenizer;
  generationConfig: GenerationConfig = {};
  /** Folder or name the weights came from, for `adapter_config.json`. */
  nameOrPath = '';
  /** What trains the model now: `fitDataset`. Meanwhile calls that change weights or layers are refused. */
  busyWith?: string;
  private readonly adapterSet: AdapterSet;

  /**
   * @param container the symbolic graph, as for `tf.model`
   * @param storage how the matrices lie in memory
   */
  constructor(
    container: ConstructorParameters<typeof tf.LayersModel>[0],
    readonly config: Config,
    readonly storage: StorageDtype,
  ) {
    super(container);
    this.adapterSet = new AdapterSet(this);
  }

  /**
   * Hidden states after the last norm, differentiable with respect to the trained weights.
   *
   * @param inputIds `[B, T]` int32
   * @returns `[B, T, C]` float32
   */
  abstract forward(inputIds: tf.Tensor2D, options?: ForwardOptions): tf.Tensor3D;

  /** The contents of this model's `config.json`. */
  abstract formatConfig(dtype: StorageDtype): Record<string, unknown>;

  /** Reads the contents of a `config.json`; `where` names the file in errors. */
  static parseConfig(_json: Record<string, unknown>, _where: string): CausalLMConfig {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${this.name}: expected the class to define parseConfig, it does not`,
    );
  }

  /** A whole config from whatever `fromConfig` takes. */
  static resolveConfig(_source: never): CausalLMConfig {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${this.name}: expected the class to define resolveConfig, it does not`,
    );
  }

  /** Weights of a model of this config: the files must be able to hold them. Default 0: unknown, and not compared. */
  static parameterCount(_config: never): number {
    return 0;
  }

  // --- making one -------------------------------------------------------------------------------------------------

  /** A model with fresh weights: matrices normal(0, initializerRange), norms one, biases zero. */
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
    const {dtype = 'float32', seed = 0, allocate = true} = options;
    const config = this.resolveConfig(source as never);
    const model = withoutAllocation(() => new this(config as never, dtype));
    if (allocate) initializeWeights(model.layers, config.initializerRange, seed);
    return model;
  }

  /**
   * Loads a Hugging Face folder of the disk, of a URL, or as a browser's files: `config.json`, `model.safetensors` (or shards), and where present
   * `generation_config.json`, the tokenizer and its chat template. Weights stream tensor by tensor.
   *
   * With `quantization` (QLoRA) the linear layers are quantized as they stream in, so the whole 16-bit model is never in
   * memory; a folder in bitsandbytes' format loads as it is.
   *
   * @throws TfjsLoraError `FILE_NOT_FOUND`, `CORRUPT_FILE`, `INVALID_CONFIG`, `MISSING_TENSOR`,
   *   `UNEXPECTED_TENSOR`, `SHAPE_MISMATCH`, `NON_FINITE`, `VOCABULARY_MISMATCH`, `UNSUPPORTED`
   */
  static async fromPretrained<T extends CausalLM>(
    this: ModelClass<T>,
    source: FolderSource,
    options: LoadOptions = {},
  ): Promise<T> {
    assertKnownOptions('fromPretrained', options, LOAD_OPTIONS);
    const wanted =
      options.quantization === undefined
        ? undefined
        : resolveQuantizationOptions('fromPretrained quantization', options.quantization);
    const folder = openFolder(source);
    if (!(await folder.exists())) {
      throw new TfjsLoraError(
        'FILE_NOT_FOUND',
        `model folder ${folder.pathOf('')}: expected a Hugging Face folder, got nothing there. ` +
          'Download the model first (config.json, *.safetensors, tokenizer files) and pass its folder.',
      );
    }
    const where = folder.pathOf('config.json');
    const json = await readJsonOf(folder, 'config.json');
    let config = this.parseConfig(json, where);
    const stored = parseQuantizationConfig(json.quantization_config, where);
    const checkpoint = await ModelCheckpoint.fromFolder(folder, config.tieWordEmbeddings === true);
    let model: T | undefined;
    try {
      if (config.tieWordEmbeddings && (await checkpoint.hasOwnHead())) {
        config = {...config, tieWordEmbeddings: false};
        warn(
          `${where} tie_word_embeddings: expected false, got true, but the weights hold an lm_head.weight that differs from ` +
            'the embedding. The head is not tied, as in transformers 5, and is saved so.',
        );
      }
      assertFilesHold(this.parameterCount(config as never), checkpoint, where);
      model = withoutAllocation(() => new this(config as never, options.dtype ?? storageOf(checkpoint)));
      declareQuantization(model, checkpoint, stored, wanted, where);
      model.nameOrPath = folder.path;
      if (options.allocate === false) assertTensors(model, checkpoint);
      else await loadWeights(model, checkpoint, options);
      model.generationConfig = await readGenerationConfig(folder, {
        bosTokenId: config.bosTokenId,
        eosTokenId: config.eosTokenId,
        padTokenId: config.padTokenId,
      });
      if (await folder.has('tokenizer.json')) {
        model.tokenizer = await Tokenizer.fromFolder(folder);
        model.tokenizer.assertFits(config.vocabSize, {allowAdded: true});
      }
      return model;
    } catch (error) {
      model?.dispose();
      throw error;
    } finally {
      checkpoint.close();
    }
  }

  // --- weights ----------------------------------------------------------------------------------------------------

  /** All weights by checkpoint name; adapters as `….lora_A.<adapter>.weight`. */
  namedParameters(): Map<string, Parameter> {
    this.assertUsable();
    return new Map(namedParameters(this.layers));
  }

  /**
   * The trained weights: adapters under their key in a PEFT file
   * (`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`), others under their checkpoint name.
   */
  trainableParameters(): Map<string, tf.Variable> {
    return new Map(this.trained().map(([key, parameter]) => [key, parameter.read()]));
  }

  /** The shapes of {@link trainableParameters}, which a model without memory knows too. */
  trainableShapes(): Map<string, number[]> {
    return new Map(this.trained().map(([key, parameter]) => [key, parameter.shape as number[]]));
  }

  private trained(): [key: string, Parameter][] {
    const keyOf = this.adapterSet.fileKeys();
    return [...this.namedParameters()]
      .filter(([, parameter]) => parameter.trainable)
      .map(([name, parameter]) => [keyOf(name), parameter]);
  }

  /**
   * Sets all weights, in the order of `getWeights`; every one is checked before any is written.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` for another number of them, `SHAPE_MISMATCH` naming one of another shape or type
   */
  override setWeights(weights: tf.Tensor[]): void {
    this.assertChangeable('setWeights');
    writeWeights(`model ${this.name}`, this.weights, weights);
  }

  /** Finds a layer by Hugging Face's module name, at any depth, or by index among the top-level ones. */
  override getLayer(name: string): tf.layers.Layer;
  override getLayer(index: number): tf.layers.Layer;
  override getLayer(name: string, index: number): tf.layers.Layer;
  override getLayer(nameOrIndex: string | number, index?: number): tf.layers.Layer {
    if (typeof nameOrIndex === 'number') return super.getLayer(nameOrIndex);
    const names: string[] = [];
    for (const layer of walk(this.layers)) {
      if (layer.name === nameOrIndex) return layer;
      names.push(layer.name);
    }
    if (index !== undefined) return super.getLayer(index);
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `layer "${nameOrIndex}": expected a layer of the model, got none of that name. ` +
        `Nearest: ${nearestNames(nameOrIndex, names).join(', ')}`,
    );
  }

  /** Logical number of parameters; a 16-bit weight counts its elements, not its storage. */
  override countParams(): number {
    return this.layers.reduce((sum, layer) => sum + layer.countParams(), 0);
  }

  /**
   * Prints a table of layers, output shapes and parameters; works without allocated weights too.
   *
   * @param printFn takes one line; default `console.log`
   */
  override summary(lineLength?: number, positions?: number[], printFn?: (line: string) => void): void {
    printSummary(this, lineLength, positions, printFn);
  }

  /**
   * Quantizes the linear layers in place, one at a time; those that are quantized stay as they are. Adapters stay on
   * top, so this turns LoRA into QLoRA.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown type or while adapters are merged, `NON_FINITE` naming the
   *   weight; layers before it are quantized then
   */
  async quantize(options: QuantizationOptions | QuantizationType): Promise<this> {
    this.assertChangeable('quantize');
    await quantizeLayers(this, resolveQuantizationOptions('quantize', options));
    return this;
  }

  /** Gives quantized layers plain weights again, in the type they had before: what the quantized ones stood for. */
  dequantize(): this {
    this.assertChangeable('dequantize');
    dequantizeLayers(this);
    return this;
  }

  /** Bytes of all weights in memory, adapters included. */
  get byteLength(): number {
    return [...this.namedParameters().values()].reduce((sum, {byteLength}) => sum + byteLength, 0);
  }

  // --- running ----------------------------------------------------------------------------------------------------

  /** Logits `[..., vocabSize]` of hidden states `[..., C]`. */
  logitsOf(hidden: tf.Tensor): tf.Tensor {
    this.assertUsable();
    return this.lm_head.apply(hidden) as tf.Tensor;
  }

  override call(inputs: tf.Tensor | tf.Tensor[], options: ForwardOptions = {}): tf.Tensor {
    const inputIds = (Array.isArray(inputs) ? inputs[0] : inputs) as tf.Tensor2D;
    return tf.tidy(() => this.logitsOf(this.forward(inputIds.toInt(), options)));
  }

  /**
   * Logits of a batch of token ids, `[B, T]` → `[B, T, vocabSize]` float32.
   *
   * @throws TfjsLoraError `VOCABULARY_MISMATCH` for an id the model does not have, `INVALID_ARGUMENT` for a
   *   sequence longer than `maxPositionEmbeddings`
   */
  override predict(
    inputIds: tf.Tensor | tf.Tensor[] | number[][],
    options: Pick<ForwardOptions, 'attentionMask' | 'positionIds'> & {
      batchSize?: number;
      verbose?: boolean;
    } = {},
  ): tf.Tensor3D {
    this.assertUsable();
    assertKnownOptions('predict', options, PREDICT_OPTIONS);
    const given = inputIds instanceof tf.Tensor ? inputIds : Array.isArray(inputIds) ? inputIds[0] : inputIds;
    if (given instanceof tf.Tensor) assertShape('predict inputIds', given, [-1, -1]);
    else assertRows('predict inputIds', inputIds as number[][]);
    return tf.tidy(() => {
      const ids =
        given instanceof tf.Tensor ? given : tf.tensor2d(inputIds as number[][], undefined, 'int32');
      // A tensor on a card cannot be read here; there, an id that is none picks nothing of use but harms nothing.
      if (!(given instanceof tf.Tensor)) this.assertFits(inputIds as number[][]);
      else if (!asynchronousBackends.has(tf.backend())) this.assertFits(ids.arraySync() as number[][]);
      return this.call(ids, options as ForwardOptions) as tf.Tensor3D;
    });
  }

  /** Checks token ids and length against the model. */
  assertFits(inputIds: ArrayLike<number>[]): void {
    const {vocabSize, maxPositionEmbeddings} = this.config;
    for (const [row, ids] of inputIds.entries()) {
      if (ids.length > maxPositionEmbeddings) {
        throw new TfjsLoraError(
          'INVALID_ARGUMENT',
          `sequence ${row}: expected at most ${maxPositionEmbeddings} tokens (max_position_embeddings), ` +
            `got ${ids.length}. Truncate it.`,
        );
      }
      for (let t = 0; t < ids.length; t++) {
        if (Number.isInteger(ids[t]) && ids[t] >= 0 && ids[t] < vocabSize) continue;
        throw new TfjsLoraError(
          'VOCABULARY_MISMATCH',
          `token ${t} of sequence ${row}: expected an id from 0 to ${vocabSize - 1}, got ${ids[t]}. ` +
            'Use the tokenizer that belongs to the model.',
        );
      }
    }
  }

  /**
   * Sum of the cross-entropy over the labels that count (shifted inside, as in Hugging Face; −100 is ignored),
   * differentiable. Divide by {@link targetCount}, over all micro-batches of a window at once.
   */
  lossSum(batch: Batch, options: {training?: boolean; seed?: number} = {}): tf.Scalar {
    this.assertUsable();
    assertKnownOptions('lossSum', options, {training: true, seed: true});
    return lossSum(this, batch, options);
  }

  /** How many labels of a batch count. */
  targetCount(batch: Batch): number {
    return targetCount(batch);
  }

  newCache(): KeyValueCache {
    return new Cache();
  }

  /** Continues a prompt, or several; see {@link GenerateOptions}. Resolves to the new text. */
  generate(prompt: Prompt, options?: GenerateOptions): Promise<string>;
  generate(prompts: string[] | number[][], options?: GenerateOptions): Promise<string[]>;
  generate(prompts: never, options?: GenerateOptions): Promise<string | string[]> {
    this.assertUsable();
    return generate(this, prompts, options);
  }

  /** Like {@link generate} for one prompt, in pieces as they come. */
  stream(prompt: Prompt, options?: GenerateOptions): AsyncGenerator<string, void, undefined> {
    this.assertUsable();
    return stream(this, prompt, options);
  }

  /** The assistant's next turn in a conversation, by the tokenizer's chat template. */
  chat(messages: ChatMessage[], options?: ChatOptions): Promise<string> {
    this.assertUsable();
    return chat(this, messages, options);
  }

  // --- adapters ---------------------------------------------------------------------------------------------------

  /**
   * Freezes the model and adds a low-rank adapter to its linear layers, the only weights that train from here.
   *
   * @throws TfjsLoraError `UNKNOWN_TARGET` naming the nearest layers, `INVALID_ARGUMENT` for an impossible rank,
   *   `UNSUPPORTED` for a target that cannot be adapted
   */
  applyLoRA(options: LoRAOptions = {}): this {
    this.assertChangeable('applyLoRA');
    this.adapterSet.add(options);
    return this;
  }

  /** Names of the adapters, in the order they came. */
  get adapterNames(): string[] {
    return this.adapterSet.names;
  }

  /** Names of the adapters in force. */
  get activeAdapters(): string[] {
    return this.adapterSet.active;
  }

  /** Settings an adapter was made with. */
  adapterOptions(name?: string): LoRAOptions {
    return this.adapterSet.options(name);
  }

  /** Layers that carry adapters, by name. */
  adaptedLayers(): Map<string, LoRADense> {
    return this.adapterSet.layers();
  }

  /**
   * Puts adapters in force and makes them the trained ones: a name, several, or names with a weight each; all
   * others rest.
   */
  setAdapter(names: string | string[] | Record<string, number>): this {
    this.assertChangeable('setAdapter');
    this.adapterSet.activate(names);
    return this;
  }

  /** Removes an adapter and frees its weights. */
  deleteAdapter(name: string): this {
    this.assertChangeable('deleteAdapter');
    this.adapterSet.remove(name);
    return this;
  }

  /** Runs `fn` with all adapters resting. */
  withoutAdapter<R>(fn: () => R): R {
    this.assertUsable();
    return this.adapterSet.without(fn);
  }

  /**
   * Adds the active adapters into the base weights, until {@link unmergeLoRA} restores those bit for bit.
   *
   * @throws TfjsLoraError `UNSUPPORTED` for quantized weights unless `dequantize`, which gives the adapted layers plain
   *   weights in the type they had before they were quantized
   */
  mergeLoRA(options?: MergeOptions): this {
    this.assertChangeable('mergeLoRA');
    this.adapterSet.merge(options);
    return this;
  }

  unmergeLoRA(): this {
    this.assertChangeable('unmergeLoRA');
    this.adapterSet.unmerge();
    return this;
  }

  /** Merges the active adapters for good, as {@link mergeLoRA}: the layers become plain linear layers again. */
  fuseLoRA(options?: MergeOptions): this {
    this.assertChangeable('fuseLoRA');
    this.adapterSet.fuse(options);
    return this;
  }

  /**
   * Writes an adapter as a PEFT folder: `adapter_config.json`, `adapter_model.safetensors`.
   *
   * @param folder a path, or a `Map` that takes the files as `Blob`s, where there is no disk
   */
  async saveAdapter(folder: FolderTarget, adapterName?: string): Promise<void> {
    this.assertUsable();
    await saveAdapter(this, this.adapterSet, folder, adapterName);
  }

  /** Loads a PEFT folder as a further adapter and puts it in force; frozen unless `trainable`. */
  async loadAdapter(folder: FolderSource, options?: LoadAdapterOptions): Promise<this> {
    this.assertChangeable('loadAdapter');
    await loadAdapter(this, this.adapterSet, folder, options);
    return this;
  }

  // --- files and end ----------------------------------------------------------------------------------------------

  /**
   * Writes a Hugging Face folder that transformers loads: config, weights in shards, generation config, tokenizer.
   * Adapters must be merged first, or they would be lost.
   *
   * @param folder a path, or a `Map` that takes the files as `Blob`s, where there is no disk
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

  /** Frees every weight. Any use afterwards throws; disposing again does nothing. */
  override dispose(): ReturnType<tf.LayersModel['dispose']> {
    if (this.isDisposed) return {refCountAfterDispose: 0, numDisposedVariables: 0};
    const numDisposedVariables = this.layers.reduce(
      (count, layer) => count + (layer instanceof ModuleLayer ? layer.disposeWeights() : 0),
      0,
    );
    this._refCount = 0;
    return {refCountAfterDispose: 0, numDisposedVariables};
  }

  get isDisposed(): boolean {
    return this._refCount === 0;
  }

  /** @throws TfjsLoraError `DISPOSED`; `UNSUPPORTED` while something trains the model */
  protected assertChangeable(what: string): void {
    this.assertUsable();
    assertIdle(this, what);
  }

  /** @throws TfjsLoraError `DISPOSED` */
  protected assertUsable(): void {
    if (!this.isDisposed) return;
    throw new TfjsLoraError('DISPOSED', `model ${this.name}: expected a live model, got one after dispose()`);
  }
}

/** Checks that rows of token ids make a matrix. */
function assertRows(what: string, rows: number[][]): void {
  const lengths = [...new Set(rows.map((row) => row.length))];
  if (lengths.length === 1 && lengths[0] > 0) return;
  throw new TfjsLoraError(
    'SHAPE_MISMATCH',
    `${what}: expected rows of one length with at least one token, got [${rows.length}, ${lengths.join(' or ') || 0}]`,
  );
}
