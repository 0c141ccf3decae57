import * as tf from '@tensorflow/tfjs';
import {nearestNames, TfjsLoraError} from '../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import {activate, Dense, type DenseArgs} from './dense.ts';
import {doraScale, rowNorms} from './dora.ts';
import {hashName} from './hashName.ts';
import {ADAPTER_OPTIONS, LoRAAdapter, type LoRAAdapterArgs} from './loraAdapter.ts';
import {flatten, ModuleLayer, onlyInput, onlyShape, unflatten} from './moduleLayer.ts';
import {asynchronousBackends} from './ops/dispatch.ts';
import {loraLinear} from './ops/loraLinear.ts';
import {loraMatMul} from './ops/loraMatMul.ts';
import type {DenseMatrix} from './ops/storedMatrix.ts';
import {unpackMatrix} from './ops/unpackMatrix.ts';
import {type Parameter, withoutAllocation} from './parameter.ts';
import type {QuantizationArgs, QuantizationType} from './quantizationArgs.ts';
import {QuantizedDense} from './quantizedDense.ts';

export interface LoRADenseArgs extends DenseArgs, LoRAAdapterArgs {
  /** Keep the base in few bits: QLoRA. Default: as `storage` says. */
  quantization?: QuantizationArgs | QuantizationType;
}

export interface MergeOptions {
  /**
   * Dequantize a quantized base to merge into it: the merged weight is in the type the base had before, and outputs are
   * those of the dequantized base. Default false: merging into a quantized base is refused, as rounding the sum to few
   * bits again would lose most of the update.
   */
  dequantize?: boolean;
}
export const MERGE_OPTIONS = {dequantize: true} satisfies OptionNames<MergeOptions>;

export interface LoRACallArgs {
  training?: boolean;
  seed?: number;
  /** Nobody reads the value, only the gradients are wanted: a kernel may leave it out. Default false. */
  isUnread?: boolean;
}

/** The adapter that has no other name. */
export const DEFAULT_ADAPTER = 'default';

/**
 * A frozen linear layer with trained low-rank updates: `activation(x · Wᵀ + b + Σ scaling · (x · Aᵀ) · Bᵀ)`
 * over the active adapters. Hu et al. 2021; names and semantics as in PEFT's `lora.Linear`.
 *
 * Input `[..., inputDim]` float32, output `[..., units]` float32.
 * Weights: the base's, frozen; per adapter `loraA` `[rank, inputDim]`, `loraB` `[units, rank]` (zeros, so the
 * layer starts equal to its base) and, for DoRA, `magnitude` `[units]`.
 */
export class LoRADense extends ModuleLayer {
  static className = 'LoRADense';
  static readonly optionNames = {
    ...Dense.optionNames,
    ...ADAPTER_OPTIONS,
    quantization: true,
    base: true,
  } satisfies OptionNames<LoRADenseArgs & {base?: Dense}>;
  base: Dense;
  readonly adapters = new Map<string, LoRAAdapter>();
  /** Names of the adapters in force, in the order they are applied. */
  activeAdapters: string[] = [];
  private readonly firstAdapter?: LoRAAdapterArgs;
  private unmerged?: tf.Tensor; // the base's stored weight from before the merge
  #quantizedBase?: QuantizedDense; // the base from before a merge that dequantized it; private: it is no sub-layer now

  constructor(args: LoRADenseArgs & {base?: Dense}) {
    super(args);
    const {rank, alpha, dropout, useRsLoRA, useDoRA, init, freezeB, seed} = args;
    this.firstAdapter =
      rank === undefined ? undefined : {rank, alpha, dropout, useRsLoRA, useDoRA, init, freezeB, seed};
    this.base = args.base ?? newBase({...args, name: this.name});
    this.base.trainable = false;
    if (!this.base.built) return;
    this.built = true;
    if (this.firstAdapter) this.addAdapter(DEFAULT_ADAPTER, this.firstAdapter);
  }

  /** Keras's JSON comes back with `useRsLoRa` for `useRsLoRA`, since it spells keys in snake case. */
  static override fromConfig<T extends tf.serialization.Serializable>(
    cls: tf.serialization.SerializableConstructor<T>,
    config: tf.serialization.ConfigDict,
  ): T {
    const {useRsLoRa, useDoRa, ...rest} = config;
    return new cls({
      ...(useRsLoRa !== undefined && {useRsLoRA: useRsLoRa}),
      ...(useDoRa !== undefined && {useDoRA: useDoRa}),
      ...rest,
    });
  }

  /** Wraps a built layer, ours or Keras's own `tf.layers.dense`; ours is taken over, Keras's is copied. */
  static fromDense(base: Dense | tf.layers.Layer, options?: LoRAAdapterArgs): LoRADense {
    assertKnownOptions('LoRADense.fromDense', options, ADAPTER_OPTIONS);
    const dense = base instanceof Dense ? base : fromKerasDense(base);
    const args = {units: dense.units, name: dense.name, base: dense, ...options};
    return new LoRADense(args as LoRADenseArgs);
  }

  override build(inputShape: tf.Shape | tf.Shape[]): void {
    this.buildSublayer(this.base, onlyShape(inputShape));
    this.base.trainable = false;
    if (this.firstAdapter) this.addAdapter(DEFAULT_ADAPTER, this.firstAdapter);
    this.built = true;
  }

  /** Adds an adapter and puts it in force beside those that are. */
  addAdapter(name: string, args: LoRAAdapterArgs): LoRAAdapter {
    if (this.adapters.has(name)) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `adapter "${name}" of ${this.name}: expected a new name, it exists`,
      );
    }
    const shape = this.base.weight.logicalShape as [number, number];
    const {weight} = this.base;
    const create = () => new LoRAAdapter(name, this.name, shape, args, () => rowNorms(weight.matrix()));
    const adapter = weight.isAllocated ? create() : withoutAllocation(create);
    adapter.trainable = this.trainable_;
    this.adapters.set(name, adapter);
    this.activeAdapters.push(name);
    for (const [key, parameter] of adapter.parameters)
      this.parameters.set(parameterKey(key, name), parameter);
    return adapter;
  }

  override get trainable(): boolean {
    return this.trainable_;
  }

  /** Trains or freezes the adapters; the base stays frozen. */
  override set trainable(trainable: boolean) {
    this.trainable_ = trainable;
    for (const adapter of this.adapters.values()) adapter.trainable = trainable;
  }

  removeAdapter(name: string): void {
    this.unmerge();
    const adapter = this.adapter(name);
    for (const key of adapter.parameters.keys()) this.parameters.delete(parameterKey(key, name));
    this.adapters.delete(name);
    this.activeAdapters = this.activeAdapters.filter((active) => active !== name);
    adapter.dispose();
  }

  adapter(name: string = DEFAULT_ADAPTER): LoRAAdapter {
    const adapter = this.adapters.get(name);
    if (adapter) return adapter;
    throw new TfjsLoraError(
      'UNKNOWN_ADAPTER',
      `adapter "${name}" of ${this.name}: expected one of ${nearestNames(name, this.adapters.keys(), 8).join(', ') || '(none)'}`,
    );
  }

  /** The default adapter's A, `[rank, inputDim]`. */
  get loraA(): Parameter {
    return this.adapter().loraA;
  }

  /** The default adapter's B, `[units, rank]`. */
  get loraB(): Parameter {
    return this.adapter().loraB;
  }

  override computeOutputShape(inputShape: tf.Shape | tf.Shape[]): tf.Shape {
    return this.base.computeOutputShape(inputShape);
  }

  /**
   * @param kwargs `training` switches dropout on; `seed` makes its mask repeatable, as a block that is run
   *   again in backward needs
   */
  override call(inputs: tf.Tensor | tf.Tensor[], kwargs: LoRACallArgs = {}): tf.Tensor {
    return tf.tidy(() => {
      const input = onlyInput(inputs); // [..., inputDim]
      const x = flatten(input, this.base.inputDim); // [N, inputDim]
      const y = this.isMerged ? this.base.project(x) : this.adapt(x, kwargs); // [N, units]
      return unflatten(activate(this.base.activation, y), input);
    });
  }

  private adapt(x: tf.Tensor2D, {training = false, seed, isUnread}: LoRACallArgs): tf.Tensor2D {
    let y: tf.Tensor2D | undefined; // [N, units]
    for (const name of this.activeAdapters) {
      const {loraA, loraB, scaling, dropout, magnitude} = this.adapter(name);
      const [a, b] = [loraA.read(), loraB.read()] as tf.Tensor[] as tf.Tensor2D[];
      const mask = seed === undefined ? undefined : seed + hashName(`${this.name}.${name}`);
      const dropped = training && dropout > 0 ? (tf.dropout(x, dropout, undefined, mask) as tf.Tensor2D) : x;
      if (!y && !magnitude && dropped === x && this.base.isPlainProduct) {
        y = this.base.withBias(loraMatMul(x, this.base.weight.matrix(), a, b, scaling, isUnread));
        continue;
      }
      y ??= this.base.project(x);
      if (!magnitude) {
        y = loraLinear(y, dropped, a, b, scaling);
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
    return y ?? this.base.project(x);
  }

  /** Whether the updates sit in the base weight now. */
  get isMerged(): boolean {
    return this.unmerged !== undefined || this.#quantizedBase !== undefined;
  }

  /**
   * Adds the active updates into the base weight, rounded to its type; until {@link unmerge}, which restores
   * the weight bit for bit, the weight from before is kept beside it.
   *
   * @throws TfjsLoraError `NON_FINITE` when the merged weight is not finite, `UNSUPPORTED` for a quantized base unless
   *   `dequantize`; the layer is left as it was
   */
  merge(options: MergeOptions = {}): void {
    assertKnownOptions('merge', options, MERGE_OPTIONS);
    const {dequantize = false} = options;
    if (this.isMerged || this.activeAdapters.length === 0) return;
    const {base} = this;
    if (!(base instanceof QuantizedDense)) {
      const merged = tf.tidy(() => this.mergedInto(base.weight));
      this.unmerged = tf.keep(base.weight.read().clone());
      base.weight.write(merged);
      merged.dispose();
      return;
    }
    if (!dequantize) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `merge of ${this.name}: expected a base in 16 or 32 bit, got ${base.weight.quantType}. Rounding the sum to few ` +
          'bits would lose the update. Load the base in 16 bit and merge there, or pass {dequantize: true}.',
      );
    }
    const dense = base.dequantize(base.weight.sourceDtype);
    try {
      const merged = tf.tidy(() => this.mergedInto(dense.weight));
      dense.weight.write(merged);
      merged.dispose();
    } catch (error) {
      dense.disposeWeights();
      throw error;
    }
    this.#quantizedBase = base;
    this.base = dense;
  }

  unmerge(): void {
    if (this.#quantizedBase) {
      this.base.disposeWeights();
      this.base = this.#quantizedBase;
      this.#quantizedBase = undefined;
    }
    if (!this.unmerged) return;
    this.base.weight.write(this.unmerged);
    this.unmerged.dispose();
    this.unmerged = undefined;
  }

  /** Merges for good and returns the plain layer; this one is used up. */
  fuse(options?: MergeOptions): Dense {
    this.merge(options);
    this.forgetUnmerged();
    for (const adapter of this.adapters.values()) adapter.dispose();
    this.adapters.clear();
    this.parameters.clear();
    this.activeAdapters = [];
    return this.base;
  }

  /** The merged weight as `target` stores it, checked. */
  private mergedInto(target: Parameter): tf.Tensor {
    const stored = target.stored(this.mergedWeight());
    const kept = unpackMatrix({...(target.matrix() as DenseMatrix), tensor: stored}); // may overflow
    if (asynchronousBackends.has(tf.backend())) return stored; // saving checks it
    if (tf.all(tf.isFinite(kept)).dataSync()[0]) return stored;
    throw new TfjsLoraError(
      'NON_FINITE',
      `merged weight of ${this.name}: expected numbers, got NaN or infinity`,
    );
  }

  /** `W` with the active updates in it, `[units, inputDim]` float32. */
  private mergedWeight(): tf.Tensor2D {
    const base = unpackMatrix(this.base.weight.matrix());
    let weight = base;
    for (const name of this.activeAdapters) {
      const {loraA, loraB, scaling, magnitude} = this.adapter(name);
      const [a, b] = [loraA.read(), loraB.read()] as tf.Tensor[] as tf.Tensor2D[];
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

  override disposeWeights(): number {
    this.forgetUnmerged();
    return super.disposeWeights();
  }

  private forgetUnmerged(): void {
    this.unmerged?.dispose();
    this.unmerged = undefined;
    this.#quantizedBase?.disposeWeights();
    this.#quantizedBase = undefined;
  }

  /** Settings of the base and of the default adapter. */
  override getConfig(): tf.serialization.ConfigDict {
    const {rank, alpha, dropout, useRsLoRA, useDoRA, init, freezeB} =
      this.adapters.get(DEFAULT_ADAPTER) ?? this.firstAdapter ?? {};
    const adapter = {rank, alpha, dropout, useRsLoRA, useDoRA, init, freezeB};
    const given = Object.entries(adapter).filter(([, value]) => value !== undefined);
    return {
      ...this.base.getConfig(),
      ...super.getConfig(),
      ...Object.fromEntries(given),
    } as tf.serialization.ConfigDict;
  }
}
tf.serialization.registerClass(LoRADense);

function newBase({quantization, ...args}: LoRADenseArgs): Dense {
  const dense = Object.entries(args).filter(([name]) => Object.hasOwn(Dense.optionNames, name));
  const settings = {
    ...(Object.fromEntries(dense) as unknown as DenseArgs),
    inputShape: undefined,
    batchInputShape: undefined,
  };
  return quantization ? new QuantizedDense({...settings, quantization}) : new Dense(settings);
}

/** `lora_A.weight` is kept as `lora_A.default.weight`, as PEFT names it inside a model. */
function parameterKey(key: string, adapter: string): string {
  const [kind, ...rest] = key.split('.');
  return [kind, adapter, ...rest].join('.');
}

/** Keras stores `[inputDim, units]`; ours is the transpose. */
function fromKerasDense(layer: tf.layers.Layer): Dense {
  const {units, useBias, activation} = layer.getConfig() as unknown as DenseArgs;
  if (layer.getClassName() !== 'Dense' || !layer.built) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `LoRADense.fromDense ${layer.name}: expected a built Dense layer, got ${layer.built ? '' : 'unbuilt '}${layer.getClassName()}`,
    );
  }
  const [kernel, bias] = layer.getWeights() as [tf.Tensor2D, tf.Tensor1D];
  const dense = new Dense({units, useBias, activation, name: layer.name});
  dense.build([null, kernel.shape[0]]);
  tf.tidy(() => {
    dense.weight.write(kernel.transpose());
    if (bias) dense.bias?.write(bias.clone());
  });
  return dense;
}
