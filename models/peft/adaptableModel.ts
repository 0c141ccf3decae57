import type * as tf from '@tensorflow/tfjs';
import type {AdaptedLayer} from '../../layers/adaptedLayer.ts';
import type {LoRADense} from '../../layers/loraDense.ts';
import type {LoRAFields} from '../../layers/loraFields.ts';
import type {Parameter} from '../../layers/parameter.ts';
import type {QuantizationType} from '../../layers/quantizationArgs.ts';
import {ValueHead} from '../../layers/valueHead.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import type {FolderSource, FolderTarget} from '../../quant/folders/openFolder.ts';
import {assertKnownOptions} from '../../quant/knownOptions.ts';
import {show} from '../../quant/show.ts';
import {LAYER_WATCH_OPTIONS, type LayerWatch} from '../layerWatch.ts';
import {ModuleModel} from '../moduleModel.ts';
import {
  dequantizeLayers,
  type QuantizationOptions,
  quantizeLayers,
  resolveQuantizationOptions,
} from '../quantization.ts';
import type {MergeAdaptersOptions} from './adapterMerge.ts';
import {trainedParameters} from './adapterParameters.ts';
import {AdapterSet} from './adapterSet.ts';
import {type AdaptersStatus, adapterStatus, printAdapters} from './adapterStatus.ts';
import {type CombineAdaptersOptions, combineAdapters} from './combineAdapters.ts';
import {
  type HotswapAdapterOptions,
  hotswapAdapter,
  type PrepareHotswapOptions,
  prepareHotswap,
} from './hotswapAdapter.ts';
import {initializeLoRA} from './initialization/initializeLoRA.ts';
import type {InitializeLoRAOptions} from './initialization/initializeLoRAOptions.ts';
import {type LoadAdapterOptions, loadAdapter} from './loadAdapter.ts';
import type {LoRAOptions, LoRAOptionsOf} from './loraOptions.ts';
import type {RowAdapters} from './rowAdapters.ts';
import {type SaveAdapterFilesOptions, saveAdapter} from './saveAdapter.ts';

/** A model whose linear layers can be quantized and can have low-rank adapters: LoRA and QLoRA. */
export abstract class AdaptableModel extends ModuleModel {
  /** Output head, `[..., C]` → `[..., vocabSize]`. */
  abstract lm_head: tf.layers.Layer;
  /** Folder or name that the weights came from, for `adapter_config.json`. */
  nameOrPath = '';
  private readonly adapterSet = new AdapterSet(this);

  /**
   * Quantizes the linear layers in place, one at a time. Layers that are already quantized do not change. Adapters are
   * kept, so this turns LoRA into QLoRA. Weights without memory (`allocate: false`) are declared as quantized, so that
   * they can be counted.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` for an unknown type or while adapters are merged, `NON_FINITE` naming the
   *   weight, and the signal's reason; the layers before it are then quantized, and another call continues
   */
  async quantize(options: QuantizationOptions | QuantizationType, watch?: LayerWatch): Promise<this> {
    this.assertChangeable('quantize');
    assertKnownOptions('quantize', watch, LAYER_WATCH_OPTIONS);
    const resolved = resolveQuantizationOptions('quantize', options);
    this.busyWith = 'quantize'; // a call that does not wait would see a part of the layers quantized
    try {
      await quantizeLayers(this, resolved, watch);
    } finally {
      this.busyWith = undefined;
    }
    return this;
  }

  /** Gives quantized layers plain weights again: the dequantized values, in the dtype the layers had before. */
  dequantize(): this {
    this.assertChangeable('dequantize');
    dequantizeLayers(this);
    return this;
  }

  /**
   * Returns the trained weights: adapters under their key in a PEFT file
   * (`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`), others under their name in model
   * files.
   */
  trainableParameters(): Map<string, tf.Variable> {
    return new Map(this.trained().map(([key, parameter]) => [key, parameter.read()]));
  }

  /** Returns the shapes of {@link trainableParameters}, even for a model whose weights are not allocated. */
  trainableShapes(): Map<string, number[]> {
    return new Map(this.trained().map(([key, parameter]) => [key, parameter.shape as number[]]));
  }

  private trained(): [key: string, Parameter][] {
    this.assertUsable();
    return [...trainedParameters(this.adapterSet)];
  }

  /** The head that scores positions; undefined unless one was added or loaded. */
  get valueHead(): ValueHead | undefined {
    return this.layers.find((layer) => layer instanceof ValueHead);
  }

  /**
   * Freezes the model and adds a low-rank adapter to its linear layers. Afterwards, only adapters train, and the value
   * head if there is one.
   *
   * @throws TfjsLoraError `UNKNOWN_TARGET` naming the nearest layers, `INVALID_ARGUMENT` for an impossible rank,
   *   `UNSUPPORTED` for a target that cannot be adapted
   * @example
   * ```ts
   * import {Llama} from 'tfjs-lora';
   *
   * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
   * model.applyLoRA({rank: 8, alpha: 16, targetModules: ['q_proj', 'v_proj']});
   * model.summary();
   * ```
   */
  applyLoRA<Fields extends LoRAFields>(options: LoRAOptionsOf<Fields>): this;
  applyLoRA(options?: LoRAOptions): this;
  applyLoRA(options: LoRAOptions = {}, ...more: unknown[]): this {
    if (more.length > 0) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `applyLoRA: expected one object of options, got ${show(more[0])} after it. An adapter's name is adapterName.`,
      );
    }
    this.assertChangeable('applyLoRA');
    this.adapterSet.add(options);
    this.trainable = true; // like the layers around the adapters
    return this;
  }

  /**
   * Initializes a new adapter before it trains, as PEFT's `init_lora_weights` does: from its base, or from data in
   * `batches`. All methods except `eva`, `orthogonal` and `mica` also change the base, so that the model's outputs stay
   * nearly or exactly the same. No other adapter fits the changed base. Quantize the model only afterwards.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT`; `UNSUPPORTED` for a base that is quantized and would change, and beside
   *   other adapters; the signal's reason; nothing has then changed
   * @example
   * ```ts
   * import {Llama} from 'tfjs-lora';
   *
   * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
   * await model.applyLoRA({rank: 16}).initializeLoRA({method: 'pissa'});
   * ```
   */
  async initializeLoRA(options: InitializeLoRAOptions): Promise<this> {
    this.assertChangeable('initializeLoRA');
    await initializeLoRA(this, this.adapterSet, options);
    return this;
  }

  /** Names of the adapters, in the order they were added. */
  get adapterNames(): string[] {
    return this.adapterSet.names;
  }

  /** Names of the active adapters. */
  get activeAdapters(): string[] {
    return this.adapterSet.active;
  }

  /** The method of {@link initializeLoRA} that changed the base, if one did. */
  get baseChangedBy(): string | undefined {
    return this.adapterSet.baseChangedBy;
  }

  /** Returns the options that an adapter was made with. */
  adapterOptions(name?: string): LoRAOptions {
    return this.adapterSet.options(name);
  }

  /** Returns the layers that have low-rank adapters, by name. */
  adaptedLayers(): Map<string, LoRADense> {
    return this.adapterSet.lowRank();
  }

  /** Returns the layers that have adapters of any kind, by name, including those that adapters copy whole. */
  layersWithAdapters(): Map<string, AdaptedLayer> {
    return this.adapterSet.layers();
  }

  /**
   * Activates adapters and makes them trainable: one name, several, or names with a weight each. All others become
   * inactive.
   */
  setAdapter(names: string | string[] | Record<string, number>): this {
    this.assertChangeable('setAdapter');
    this.adapterSet.activate(names);
    return this;
  }

  /**
   * Renames an adapter. Its weights, its order among the adapters, and whether it is active, merged and trained do not
   * change, and optimizers keep their state. Only the masks of dropout, which are drawn by name, change.
   *
   * @throws TfjsLoraError `UNKNOWN_ADAPTER`; `INVALID_ARGUMENT` for a new name that exists or is none
   * @example
   * ```ts
   * import {Llama} from 'tfjs-lora';
   *
   * const model = (await Llama.fromPretrained('Llama-3.2-1B-Instruct')).applyLoRA({rank: 8});
   * model.renameAdapter('default', 'legal');
   * ```
   */
  renameAdapter(name: string, newName: string): this {
    this.assertChangeable('renameAdapter');
    this.adapterSet.rename(name, newName);
    return this;
  }

  /**
   * Describes the adapters and the layers that have them: what is active, merged and trains, ranks, types and numbers of
   * parameters. PEFT's `get_model_status()` and `get_layer_status()`.
   *
   * @returns a plain object, which does not change with the model
   */
  adapterStatus(): AdaptersStatus {
    this.assertUsable();
    return adapterStatus(this.adapterSet);
  }

  /**
   * Prints a table of the adapters in the style of {@link summary}, with their states, ranks and parameters.
   *
   * @param printFn receives each line. Default `console.log`
   */
  adapterSummary(lineLength?: number, positions?: number[], printFn?: (line: string) => void): void {
    this.assertUsable();
    printAdapters(this, this.adapterSet, lineLength, positions, printFn);
  }

  /** Removes an adapter and frees its weights. */
  deleteAdapter(name: string): this {
    this.assertChangeable('deleteAdapter');
    this.adapterSet.remove(name);
    return this;
  }

  /**
   * Adds an adapter that is a weighted combination of others, as PEFT's `add_weighted_adapter` does. The new adapter is
   * active and frozen, and its scale is 1. The others are kept.
   *
   * @param weights a weight for each adapter, which may be negative
   * @throws TfjsLoraError `UNKNOWN_ADAPTER`; `INVALID_ARGUMENT` for a name that exists, and for unequal ranks or a
   *   missing `density` where the type needs them; `UNSUPPORTED` for adapters with more than low-rank matrices of
   *   linear layers, such as DoRA or trained biases; the signal's reason
   * @example
   * ```ts
   * import {Llama} from 'tfjs-lora';
   *
   * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
   * await model.loadAdapter('french', {adapterName: 'french'});
   * await model.loadAdapter('legal', {adapterName: 'legal'});
   * await model.combineAdapters({french: 0.7, legal: 0.3}, {adapterName: 'both', combinationType: 'cat'});
   * await model.saveAdapter('both');
   * ```
   */
  async combineAdapters(weights: Record<string, number>, options?: CombineAdaptersOptions): Promise<this> {
    this.assertChangeable('combineAdapters');
    await combineAdapters(this, this.adapterSet, weights, options);
    return this;
  }

  /**
   * Refuses to compute with the active adapters beside a call of {@link withAdapters}, whose adapters these are.
   *
   * @param what name of the call, for messages
   * @throws TfjsLoraError `DISPOSED`; `UNSUPPORTED`
   */
  assertOwnCall(what: string): void {
    this.assertUsable();
    this.adapterSet.assertOwnCall(what);
  }

  protected override assertChangeable(what: string): void {
    super.assertChangeable(what);
    this.adapterSet.assertOwnCall(what);
  }

  /** Runs `fn` with all adapters inactive, as {@link withAdapters} with no name. */
  withoutAdapter<R>(fn: () => R): R {
    this.assertOwnCall('withoutAdapter');
    return this.adapterSet.with([], fn);
  }

  /**
   * Runs `fn` while only the named adapters are active, until the promise that it may return is settled. It does not change
   * which weights train or are merged. Inside `fn`, no adapter can be added or activated.
   *
   * Meanwhile, the model computes only for `fn`: calls beside it, such as another `withAdapters`, `generate` or a training
   * step, are refused. Await it first, or use the `adapterNames` of `generate` and `predict`, which run beside each other.
   * In browsers, code after an `await` in `fn` counts as beside it, so `fn` must be synchronous there.
   *
   * @throws TfjsLoraError `UNKNOWN_ADAPTER`; `UNSUPPORTED` beside another call, and for an `fn` that returns a stream
   */
  withAdapters<R>(names: string | readonly string[], fn: () => R): R {
    this.assertOwnCall('withAdapters');
    return this.adapterSet.with([names].flat(), fn);
  }

  /**
   * Prepares forward passes in which each row of a batch has its own adapter, regardless of which adapters are active.
   * `predict` and `generate` do this for their `adapterNames`.
   *
   * @param names the adapter of each row, or `__base__` for none
   * @throws TfjsLoraError `UNKNOWN_ADAPTER`; `INVALID_ARGUMENT` while adapters are merged
   * @example
   * ```ts
   * import * as tf from '@tensorflow/tfjs';
   * import {Llama} from 'tfjs-lora';
   *
   * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
   * await model.loadAdapter('legal', {adapterName: 'legal'});
   * const rows = model.rowAdapters(['legal', '__base__']);
   * const hidden = rows.run(() => model.forward(tf.tensor2d([[1, 2], [1, 2]], undefined, 'int32')));
   * rows.dispose();
   * ```
   */
  rowAdapters(names: readonly string[]): RowAdapters {
    this.assertUsable();
    return this.adapterSet.rows(names);
  }

  /**
   * Adds the active adapters to the base weights, until {@link unmergeLoRA} restores these bit for bit. Layers that are
   * already merged do not change.
   *
   * @throws TfjsLoraError `UNSUPPORTED` for quantized weights without `dequantize`, which gives the adapted layers
   *   plain weights in the dtype they had before they were quantized; the signal's reason. Nothing has then changed
   * @example
   * ```ts
   * import {Llama} from 'tfjs-lora';
   *
   * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
   * await model.loadAdapter('adapter');
   * model.mergeLoRA();
   * await model.save('merged'); // a Hugging Face folder without an adapter
   * ```
   */
  mergeLoRA(options?: MergeAdaptersOptions): this {
    this.assertChangeable('mergeLoRA');
    this.adapterSet.merging.merge(options);
    return this;
  }

  /** Restores the base weights as they were before {@link mergeLoRA}. Does nothing if nothing is merged. */
  unmergeLoRA(): this {
    this.assertChangeable('unmergeLoRA');
    this.adapterSet.merging.unmerge();
    return this;
  }

  /** Merges the active adapters permanently, as {@link mergeLoRA}; the layers become plain linear layers again. */
  fuseLoRA(options?: MergeAdaptersOptions): this {
    this.assertChangeable('fuseLoRA');
    this.adapterSet.fuse(options);
    return this;
  }

  /**
   * Writes an adapter as a PEFT folder: `adapter_config.json`, `adapter_model.safetensors`, and the value head if there
   * is one, `value_head.safetensors`.
   *
   * @param folder a path, or a `Map` that receives the files as `Blob`s where there is no disk
   * @param adapterName Default: the only active adapter, or `default`
   * @throws TfjsLoraError `UNKNOWN_ADAPTER`; `UNSUPPORTED` for an adapter that cannot be converted
   */
  async saveAdapter(
    folder: FolderTarget,
    adapterName?: string,
    options?: SaveAdapterFilesOptions,
  ): Promise<void> {
    this.assertUsable();
    await saveAdapter(this, this.adapterSet, folder, adapterName, options);
  }

  /**
   * Loads a PEFT folder as a new adapter and activates it. It is frozen unless `trainable`. If anything is wrong, the
   * model does not change.
   *
   * @throws TfjsLoraError `FILE_NOT_FOUND`, `CORRUPT_FILE`, `INVALID_CONFIG`, `UNKNOWN_TARGET`, `MISSING_TENSOR`,
   *   `UNEXPECTED_TENSOR`, `SHAPE_MISMATCH`, `NON_FINITE`; `INVALID_ARGUMENT` for a name that exists; `UNSUPPORTED` for
   *   another kind of adapter
   */
  async loadAdapter(folder: FolderSource, options?: LoadAdapterOptions): Promise<this> {
    this.assertChangeable('loadAdapter');
    await loadAdapter(this, this.adapterSet, folder, options);
    this.trainable = true; // like the layers around the adapters
    return this;
  }

  /**
   * Replaces an adapter's weights and settings with those of a PEFT folder, as PEFT's `hotswap_adapter` does. Nothing
   * is compiled again, and on webgpu, recorded passes remain valid if the scale is the same. The folder may have a
   * smaller rank, another alpha and, without DoRA, fewer layers. Optimizer states are kept. If anything is wrong, the
   * model does not change.
   *
   * @param folder a path, a URL, or the files in memory
   * @throws TfjsLoraError `UNKNOWN_ADAPTER`; `INVALID_ARGUMENT` for a larger rank, see {@link prepareHotswap}, and
   *   while adapters are merged; `UNSUPPORTED` for another kind of adapter, other replicated layers or more than
   *   low-rank matrices; `UNEXPECTED_TENSOR` for a layer that the adapter lacks; `MISSING_TENSOR` for fewer layers with
   *   DoRA; as {@link loadAdapter}
   * @example
   * ```ts
   * import {Llama} from 'tfjs-lora';
   *
   * const model = await Llama.fromPretrained('Llama-3.2-1B-Instruct');
   * await model.loadAdapter('legal'); // rank 8
   * model.prepareHotswap({targetRank: 16}); // only if another adapter has a larger rank
   * await model.hotswapAdapter('brief'); // rank 16
   * ```
   */
  async hotswapAdapter(folder: FolderSource, options?: HotswapAdapterOptions): Promise<this> {
    this.assertChangeable('hotswapAdapter');
    await hotswapAdapter(this, this.adapterSet, folder, options);
    return this;
  }

  /**
   * Pads an adapter's matrices with zeros to the largest rank of the adapters with which {@link hotswapAdapter} will
   * replace it. Its outputs do not change, and it is saved with that rank.
   *
   * @throws TfjsLoraError `UNKNOWN_ADAPTER`; `INVALID_ARGUMENT` for a smaller rank than the adapter's; `UNSUPPORTED`
   *   for more than low-rank matrices
   */
  prepareHotswap(options: PrepareHotswapOptions): this {
    this.assertChangeable('prepareHotswap');
    prepareHotswap(this.adapterSet, options);
    return this;
  }
}
