import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import type {StorageDtype} from '../quant/float16.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import {AdaptedLayer, MERGE_OPTIONS, type MergeOptions} from './adaptedLayer.ts';
import {DEFAULT_ADAPTER} from './adapter.ts';
import {doraScale, rowNorms} from './dora.ts';
import {fromKerasDense} from './fromKerasDense.ts';
import {hashName} from './hashName.ts';
import {KerasDense} from './kerasDense.ts';
import {LoRAAdapter, type LoRAAdapterClass} from './loraAdapter.ts';
import {type LoRAAdapterArgs, type LoRAFields, loraArgs, respelledByKeras} from './loraFields.ts';
import {mergedValue} from './mergedValue.ts';
import {flatten, onlyInput, onlyShape, unflatten} from './moduleLayer.ts';
import {loraLinear} from './ops/loraLinear.ts';
import {loraMatMul} from './ops/loraMatMul.ts';
import {unpackMatrix} from './ops/unpackMatrix.ts';
import {type Parameter, withoutAllocation} from './parameter.ts';
import type {QuantizationArgs, QuantizationType} from './quantizationArgs.ts';
import {QuantizedDense} from './quantizedDense.ts';
import {addRowFactors, type RowFactors, stackRowFactors} from './rowFactors.ts';
import {assertNoTraining, type RowPart} from './rowsOfPositions.ts';
import {TiedAdapter} from './tiedAdapter.ts';
import {activate, TransposedDense, type TransposedDenseArgs} from './transposedDense.ts';
import {UnmergedDense} from './unmergedDense.ts';

export interface LoRADenseArgs extends TransposedDenseArgs, LoRAAdapterArgs {
  /** Quantizes the base (QLoRA). Default: not quantized, stored as `storage` says. */
  quantization?: QuantizationArgs | QuantizationType;
  /** All adapters; `getConfig` writes them unless there is only an active `default` one. */
  adapters?: PlacedAdapterArgs[];
  /** Store the base's weight as Keras does, `[inputDim, units]`: see {@link KerasDense}. Default false. */
  kernelAsInKeras?: boolean;
  /** The type of the base's weight while adapters are merged into it; `getConfig` writes it. */
  mergedInto?: StorageDtype;
}

/** The options besides those of the base and of an adapter. */
const OWN_OPTIONS = {
  quantization: true,
  adapters: true,
  kernelAsInKeras: true,
  mergedInto: true,
  base: true,
} satisfies OptionNames<
  Omit<LoRADenseArgs, keyof TransposedDenseArgs | keyof LoRAAdapterArgs> & {base?: TransposedDense}
>;

/** An adapter of a layer with its state there. */
export interface PlacedAdapterArgs extends LoRAAdapterArgs {
  name: string;
  /** Its index among the active adapters; −1 if it is inactive. */
  place: number;
  /** Factor on the whole update. */
  weight: number;
  trainable: boolean;
}

export interface LoRACallArgs {
  /** Whether dropout is on. Default false. */
  training?: boolean;
  /** Seed that makes dropout's mask repeatable. Default: a random mask. */
  seed?: number;
  /** Whether only the gradients are wanted: a kernel may then skip the value. Default false. */
  isUnread?: boolean;
  /** Rows of the pass that the input has, if rows have different adapters. Default: all. */
  part?: RowPart;
}

/**
 * A frozen linear layer with trained low-rank updates: `activation(x · Wᵀ + b + Σ scaling · (x · Aᵀ) · Bᵀ)`
 * over the active adapters. Hu et al. 2021; names and semantics as in PEFT's `lora.Linear`.
 *
 * Input `[..., inputDim]` float32, output `[..., units]` float32.
 * Weights: the base's, frozen; per adapter `loraA` `[rank, inputDim]`, `loraB` `[units, rank]` (zeros, so the
 * layer starts equal to its base) and, for DoRA, `magnitude` `[units]`.
 *
 * @example
 * ```ts
 * import * as tf from '@tensorflow/tfjs';
 * import {LoRADense} from 'tfjs-lora/layers';
 *
 * const network = tf.sequential({layers: [new LoRADense({units: 64, rank: 4, inputShape: [32]})]});
 * ```
 */
export class LoRADense extends AdaptedLayer<LoRAAdapter> {
  static className = 'LoRADense';
  /** The options of this class, or of a subclass with the settings of its adapters. */
  static get optionNames(): Readonly<Record<string, true | object>> {
    return {...TransposedDense.optionNames, ...this.adapterClass.fields, ...OWN_OPTIONS};
  }
  /** The class of its adapters; a subclass may have another kind. */
  static readonly adapterClass: LoRAAdapterClass = LoRAAdapter;
  base: TransposedDense;
  /**
   * Updates that passes add to each row of the batch in addition to the active adapters; set only while such a pass
   * runs.
   */
  rowFactors?: RowFactors;
  private readonly firstAdapter?: LoRAAdapterArgs;
  private readonly configured?: Pick<LoRADenseArgs, 'adapters' | 'mergedInto'>;
  private unmerged?: UnmergedDense; // while adapters are merged

  constructor(args: LoRADenseArgs & {base?: TransposedDense}) {
    super(args);
    this.supportsMasking = true; // as Keras's own dense layer
    const {fields} = this.adapterClass;
    this.firstAdapter = args.rank === undefined ? undefined : (loraArgs(args, fields) as LoRAAdapterArgs);
    this.configured = {adapters: args.adapters ?? undefined, mergedInto: args.mergedInto ?? undefined};
    this.base = args.base ?? newBase({...args, name: this.name});
    this.base.trainable = false;
    if (!this.base.built) return;
    this.built = true;
    if (this.firstAdapter) this.addAdapter(DEFAULT_ADAPTER, this.firstAdapter);
  }

  static override fromConfig<T extends tf.serialization.Serializable>(
    cls: tf.serialization.SerializableConstructor<T>,
    config: tf.serialization.ConfigDict,
  ): T {
    const {fields} = (cls as unknown as LoRADenseClass).adapterClass;
    const {adapters, ...rest} = respelledByKeras(config, fields);
    const listed = Array.isArray(adapters) && {
      adapters: adapters.map((adapter) => respelledByKeras(adapter, fields)),
    };
    return new cls({...rest, ...listed} as Config);
  }

  /**
   * Wraps a built layer, either ours, which becomes the base, or Keras's own `tf.layers.dense`, which is copied. Called
   * on a subclass, it makes an instance of that subclass.
   *
   * @param options the adapter's options, and those that a subclass adds
   */
  static fromDense<T extends LoRADense>(
    this: LoRADenseClass<T>,
    base: TransposedDense | tf.layers.Layer,
    options?: LoRAAdapterArgs,
  ): T {
    assertKnownOptions(`${this.name}.fromDense`, options, addedOptions(this));
    const dense = base instanceof TransposedDense ? base : fromKerasDense(base);
    const args = {units: dense.units, name: dense.name, base: dense, ...options};
    return new this(args as LoRADenseArgs);
  }

  override build(inputShape: tf.Shape | tf.Shape[]): void {
    this.buildSublayer(this.base, onlyShape(inputShape));
    this.base.trainable = false;
    const {adapters, mergedInto} = this.configured ?? {};
    if (adapters) this.placeAdapters(adapters);
    else if (this.firstAdapter) this.addAdapter(DEFAULT_ADAPTER, this.firstAdapter);
    if (mergedInto && this.base.weight.isAllocated) this.keepUnmerged(mergedInto);
    this.built = true;
  }

  private placeAdapters(adapters: PlacedAdapterArgs[]): void {
    for (const {name, place, weight, trainable, ...args} of adapters) {
      Object.assign(this.addAdapter(name, args), {weight, trainable});
    }
    const active = adapters.filter(({place}) => place >= 0).sort((a, b) => a.place - b.place);
    this.activeAdapters = active.map(({name}) => name);
  }

  /**
   * Adds an adapter and activates it in addition to the active ones. The layer must be built.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` for a name that exists, an unknown option or an impossible setting
   */
  addAdapter(name: string, args: LoRAAdapterArgs): LoRAAdapter {
    this.assertNewName(name);
    const shape: [number, number] = [this.base.units, this.base.inputDim];
    const {weight} = this.base;
    const create = () =>
      new this.adapterClass(name, this.name, shape, args as never, () => rowNorms(weight.matrix()));
    return this.keep(weight.isAllocated ? create() : withoutAllocation(create));
  }

  /** Adds the adapter of a head that shares the update of its embedding, and activates it. */
  tieAdapter(source: LoRAAdapter, args: LoRAAdapterArgs): LoRAAdapter {
    this.assertNewName(source.name);
    const {units, inputDim, weight} = this.base;
    const create = () =>
      new TiedAdapter(source, this.name, [units, inputDim], args, () => rowNorms(weight.matrix()));
    return this.keep(weight.isAllocated ? create() : withoutAllocation(create));
  }

  /** The class of this layer's adapters. */
  get adapterClass(): LoRAAdapterClass {
    return (this.constructor as LoRADenseClass).adapterClass;
  }

  /** The default adapter's A, `[rank, inputDim]`. */
  get loraA(): Parameter {
    return this.adapter().loraA;
  }

  /** The default adapter's B, `[units, rank]`. */
  get loraB(): Parameter {
    return this.adapter().loraB;
  }

  /**
   * @param kwargs `training` switches dropout on; `seed` makes its mask repeatable, which a block needs that backward
   *   runs again
   */
  override call(inputs: tf.Tensor | tf.Tensor[], kwargs: LoRACallArgs = {}): tf.Tensor {
    return tf.tidy(() => {
      const input = onlyInput(inputs); // [..., inputDim]
      const x = flatten(input, this.base.inputDim); // [N, inputDim]
      const y = this.isMerged ? this.base.project(x) : this.adapt(x, kwargs); // [N, units]
      return unflatten(activate(this.base.activation, y), input);
    });
  }

  override get knowsRows(): boolean {
    return true;
  }

  /**
   * Stacks the adapters of a batch's rows, for {@link rowFactors}. The caller disposes the tensors.
   *
   * @param names the adapter of each row; a row whose adapter this layer lacks gets the base's output
   * @returns undefined if the layer has none of them
   */
  stackRows(names: readonly string[]): RowFactors | undefined {
    return stackRowFactors(
      this.base.weight.matrix(),
      names.map((name) => this.adapters.get(name)),
    );
  }

  private adapt(x: tf.Tensor2D, {training = false, seed, isUnread, part}: LoRACallArgs): tf.Tensor2D {
    if (this.rowFactors) assertNoTraining(training);
    let y: tf.Tensor2D | undefined; // [N, units]
    for (const name of this.activeAdapters) {
      const adapter = this.adapter(name);
      const {scaling, magnitude, settings} = adapter;
      const {dropout} = settings;
      const {a, b} = adapter.factors();
      const mask = seed === undefined ? undefined : seed + hashName(`${this.name}.${name}`);
      const dropped = training && dropout > 0 ? (tf.dropout(x, dropout, undefined, mask) as tf.Tensor2D) : x;
      if (!y && !magnitude && dropped === x && this.base.isPlainProduct) {
        const sum = loraMatMul(x, this.base.weight.matrix(), a, b, scaling, isUnread);
        y = adapter.withBias(this.base.withBias(sum));
        continue;
      }
      y ??= this.base.project(x);
      if (!magnitude) {
        y = adapter.withBias(loraLinear(y, dropped, a, b, scaling));
        continue;
      }
      const scale = doraScale(this.base.weight.matrix(), a, b, scaling, magnitude.read()); // [units]
      const direction = this.base.multiply(dropped); // [N, units]
      y = loraLinear(
        tf.add(y, tf.mul(direction, tf.sub(scale, 1))),
        dropped,
        a,
        tf.mul(b, scale.expandDims(1)),
        scaling,
      );
    }
    y ??= this.base.project(x);
    return this.rowFactors ? addRowFactors(y, x, this.rowFactors, (x) => this.base.multiply(x), part) : y;
  }

  override get original(): TransposedDense {
    return this.unmerged?.original ?? this.base;
  }

  /** Whether the base weight contains the updates. */
  override get isMerged(): boolean {
    return this.unmerged !== undefined;
  }

  /**
   * Adds the active updates to the base weight, rounded to its type, and their biases to the base's. The weights before
   * the merge are kept until {@link unmerge}, which restores them bit for bit.
   *
   * @throws TfjsLoraError `NON_FINITE` when the merged weight is not finite, `UNSUPPORTED` for a quantized base unless
   *   `dequantize` is set, and for an adapter's bias where the base has none; the layer is then unchanged
   */
  override merge(options: MergeOptions = {}): void {
    assertKnownOptions('merge', options, MERGE_OPTIONS);
    const {dequantize = false} = options;
    if (this.isMerged || this.activeAdapters.length === 0) return;
    const {base} = this;
    if (this.mergesBias && !base.bias) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `merge of ${this.name}: expected a base with a bias to add that of loraBias to, got one without. ` +
          'Keep the adapter apart: it cannot be merged, nor in PEFT.',
      );
    }
    if (base instanceof QuantizedDense && !dequantize) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `merge of ${this.name}: expected a base in 16 or 32 bits, got ${base.weight.quantType}. Rounding the sum to few ` +
          'bits would lose the update. Load the base in 16 bit and merge there, or pass {dequantize: true}.',
      );
    }
    this.keepUnmerged(base instanceof QuantizedDense ? base.weight.sourceDtype : base.storage);
    try {
      const merged = tf.tidy(() => mergedValue(this.base.weight, this.mergedWeight(), this.name));
      this.base.weight.write(merged);
      merged.dispose();
      this.mergeBiases();
    } catch (error) {
      this.unmerge();
      throw error;
    }
  }

  /** Whether an active adapter has a bias, which a merge adds to the base's. */
  private get mergesBias(): boolean {
    return this.activeAdapters.some((name) => this.adapter(name).bias);
  }

  private mergeBiases(): void {
    const {bias} = this.base;
    if (!bias || !this.mergesBias) return;
    tf.tidy(() => {
      const row = bias.read().expandDims(0) as tf.Tensor2D; // [1, units]
      const sum = this.activeAdapters.reduce((y, name) => this.adapter(name).withBias(y), row);
      bias.write(sum.reshape(bias.logicalShape));
    });
  }

  /** Keeps the base as it is for unmerging, and replaces one that cannot be written by one of another type. */
  private keepUnmerged(storage: StorageDtype): void {
    this.unmerged = new UnmergedDense(this.base, storage, this.mergesBias);
    this.base = this.unmerged.mergeable;
  }

  override unmerge(): void {
    this.unmerged?.restore();
    this.base = this.original;
    this.unmerged = undefined;
  }

  /** The frozen weights; while merged, they include those before the merge, so that Keras saves these too. */
  override get nonTrainableWeights(): tf.LayerVariable[] {
    return [...super.nonTrainableWeights, ...(this.unmerged?.weights ?? [])];
  }

  /** Merges permanently and returns the plain layer; this layer must not be used again. */
  override fuse(options?: MergeOptions): TransposedDense {
    return super.fuse(options) as TransposedDense;
  }

  /** Returns `W` with the active updates added, `[units, inputDim]` float32. */
  private mergedWeight(): tf.Tensor2D {
    const base = unpackMatrix(this.base.weight.matrix());
    let weight = base;
    for (const name of this.activeAdapters) {
      const adapter = this.adapter(name);
      const {scaling, magnitude} = adapter;
      const {a, b} = adapter.factors();
      const update = tf.mul(tf.matMul(b, a), scaling); // [units, inputDim]
      if (!magnitude) {
        weight = tf.add(weight, update);
        continue;
      }
      const scale = doraScale(this.base.weight.matrix(), a, b, scaling, magnitude.read()).expandDims(1);
      weight = tf.add(weight, tf.add(tf.mul(base, tf.sub(scale, 1)), tf.mul(update, scale)));
    }
    return weight;
  }

  protected override forgetUnmerged(): void {
    this.unmerged?.dispose();
    this.unmerged = undefined;
  }

  /** Returns the settings of the base and of the adapters, and whether the adapters are merged. */
  override getConfig(): tf.serialization.ConfigDict {
    const {seed: _, ...first} = {
      ...(this.adapters.get(DEFAULT_ADAPTER)?.settings ?? this.firstAdapter),
    } as Config;
    return {
      ...this.original.getConfig(),
      ...super.getConfig(),
      ...first,
      ...(this.built && !this.hasDefaultAlone && {adapters: this.placedAdapters()}),
      ...(this.base instanceof KerasDense && {kernelAsInKeras: true}),
      ...(this.isMerged && {mergedInto: this.base.storage}),
    } as tf.serialization.ConfigDict;
  }

  /** Whether the layer has exactly the adapters that a new layer with its settings would have. */
  private get hasDefaultAlone(): boolean {
    const [only, ...others] = this.placedAdapters();
    if (only === undefined || others.length > 0) return only === this.firstAdapter; // none, and none expected
    const {name, place, weight, trainable} = only;
    return name === DEFAULT_ADAPTER && place === 0 && weight === 1 && trainable;
  }

  private placedAdapters(): PlacedAdapterArgs[] {
    return [...this.adapters].map(([name, adapter]) => ({
      ...adapter.settings,
      name,
      place: this.activeAdapters.indexOf(name),
      weight: adapter.weight,
      trainable: adapter.isTrainableAlone,
    }));
  }
}
tf.serialization.registerClass(LoRADense);

type Config = tf.serialization.ConfigDict;

/** The class {@link LoRADense}, or a subclass. */
export interface LoRADenseClass<T extends LoRADense = LoRADense, Fields extends LoRAFields = LoRAFields> {
  new (args: LoRADenseArgs & {base?: TransposedDense}): T;
  readonly name: string;
  readonly optionNames: Record<string, true | object>;
  readonly adapterClass: LoRAAdapterClass<Fields>;
  fromDense: typeof LoRADense.fromDense;
}

/** Returns the options of a layer's class that belong to the adapter or to a subclass. */
function addedOptions({optionNames, adapterClass}: LoRADenseClass): OptionNames<object> {
  const added = Object.entries(optionNames).filter(([name]) => !Object.hasOwn(LoRADense.optionNames, name));
  return {...Object.fromEntries(added), ...adapterClass.fields};
}

function newBase({quantization, kernelAsInKeras, ...args}: LoRADenseArgs): TransposedDense {
  const dense = Object.entries(args).filter(([name]) => Object.hasOwn(TransposedDense.optionNames, name));
  const settings = {
    ...(Object.fromEntries(dense) as unknown as TransposedDenseArgs),
    inputShape: undefined,
    batchInputShape: undefined,
  };
  if (quantization) return new QuantizedDense({...settings, quantization});
  return kernelAsInKeras ? new KerasDense(settings) : new TransposedDense(settings);
}
