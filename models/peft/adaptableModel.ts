import type * as tf from '@tensorflow/tfjs';
import type {LoRADense, MergeOptions} from '../../layers/loraDense.ts';
import type {Parameter} from '../../layers/parameter.ts';
import type {QuantizationType} from '../../layers/quantizationArgs.ts';
import type {FolderSource, FolderTarget} from '../../quant/folders/openFolder.ts';
import {ModuleModel} from '../moduleModel.ts';
import {
  dequantizeLayers,
  type QuantizationOptions,
  quantizeLayers,
  resolveQuantizationOptions,
} from '../quantization.ts';
import {type LoadAdapterOptions, loadAdapter, saveAdapter} from './adapterFiles.ts';
import {AdapterSet} from './adapterSet.ts';
import type {LoRAOptions} from './loraOptions.ts';

/** A model whose linear layers can be quantized and carry low-rank adapters: LoRA and QLoRA. */
export abstract class AdaptableModel extends ModuleModel {
  /** `[..., C]` → `[..., vocabSize]`. */
  abstract lm_head: tf.layers.Layer;
  /** Folder or name the weights came from, for `adapter_config.json`. */
  nameOrPath = '';
  private readonly adapterSet = new AdapterSet(this);

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

  /**
   * The trained weights: adapters under their key in a PEFT file
   * (`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`), others under the name that model files give them.
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
}
