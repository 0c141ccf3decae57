import * as tf from '@tensorflow/tfjs';
import {nearestNames, TfjsLoraError} from '../quant/errors.ts';
import type {OptionNames} from '../quant/knownOptions.ts';
import {type Adapter, DEFAULT_ADAPTER} from './adapter.ts';
import {ModuleLayer, onlyInput} from './moduleLayer.ts';
import type {Parameter} from './parameter.ts';
import {renameKeys} from './renameKeys.ts';
import {assertNoTraining, type RowPart, rowsOfPositions} from './rowsOfPositions.ts';

export interface MergeOptions {
  /**
   * Dequantizes a quantized base to merge into it: the merged weight has the type that the base had before
   * quantization, and outputs are those of the dequantized base. Default false: merging into a quantized base is
   * refused, because rounding the sum to few bits again would lose most of the update.
   */
  dequantize?: boolean;
}
export const MERGE_OPTIONS = {dequantize: true} satisfies OptionNames<MergeOptions>;

/** Settings that a pass gives to its layers. */
interface PassArgs {
  training?: boolean;
  part?: RowPart;
}

/**
 * A frozen layer with adapters of one kind. It replaces that layer in a model, which runs, trains and saves it under
 * the same name.
 */
export abstract class AdaptedLayer<A extends Adapter = Adapter> extends ModuleLayer {
  /** The layer without its adapters; while merged, with the active ones in its weights. */
  abstract base: ModuleLayer;
  readonly adapters = new Map<string, A>();
  /** Names of the active adapters, in the order in which they are applied. */
  activeAdapters: string[] = [];
  /** The adapter of each row of the batch; set only while a pass runs whose rows have different adapters. */
  rowNames?: readonly string[];

  /** Whether it computes {@link rowNames}. */
  get knowsRows(): boolean {
    return false;
  }

  /**
   * Computes each row with its adapter alone active, neighbours with the same one together; for layers that do not
   * compute {@link rowNames} in another way.
   */
  protected callByRows(inputs: tf.Tensor | tf.Tensor[], kwargs: PassArgs = {}): tf.Tensor {
    const {activeAdapters, rowNames: names = []} = this;
    assertNoTraining(kwargs.training);
    const input = onlyInput(inputs);
    const rows = rowsOfPositions(input.shape[0], names.length, kwargs.part);
    const nameOf = (position: number) => names[rows[position]];
    const starts = [...rows.keys()].filter((position) => nameOf(position) !== nameOf(position - 1));
    this.rowNames = undefined;
    try {
      return tf.tidy(() => {
        const parts = starts.map((start, i) => {
          this.activeAdapters = [nameOf(start)].filter((name) => this.adapters.has(name));
          const part = input.slice(start, (starts[i + 1] ?? rows.length) - start);
          return this.call(part, kwargs as tf.serialization.ConfigDict & PassArgs) as tf.Tensor;
        });
        return tf.concat(parts);
      });
    } finally {
      Object.assign(this, {activeAdapters, rowNames: names});
    }
  }

  /** The layer without its adapters, even while merged. */
  get original(): ModuleLayer {
    return this.base;
  }

  /** Whether the base contains the active adapters. */
  abstract get isMerged(): boolean;

  /** Merges the active adapters into the base. Its own weights are kept until {@link unmerge}. */
  abstract merge(options?: MergeOptions): void;

  /** Restores the base as it was before {@link merge}, bit for bit. Does nothing if the layer is not merged. */
  abstract unmerge(): void;

  /** Frees the base's weights from before {@link merge}, which can then not be undone. */
  protected abstract forgetUnmerged(): void;

  /** Keeps a new adapter and activates it in addition to the active ones. */
  protected keep(adapter: A): A {
    const {name} = adapter;
    this.adapters.set(name, adapter);
    this.activeAdapters.push(name);
    this.list(adapter);
    return adapter;
  }

  /** Lists an adapter's weights as this layer's, unless another layer's adapter owns them. */
  protected list(adapter: A): void {
    adapter.held = !this.trainable;
    if (!adapter.ownsParameters) return;
    for (const [key, parameter] of adapter.parameters) this.parameters.set(adapter.placedKey(key), parameter);
  }

  /** @throws TfjsLoraError `INVALID_ARGUMENT` for the name of another adapter of this layer */
  protected assertNewName(name: string): void {
    if (!this.adapters.has(name)) return;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `adapter "${name}" of ${this.name}: expected a new name, got one that exists`,
    );
  }

  /**
   * Checks adapters before they are activated together.
   *
   * @throws TfjsLoraError `UNSUPPORTED` for adapters that this kind cannot combine
   */
  assertActive(_weights: ReadonlyMap<string, number>): void {}

  /** @param what each adapter has its own of */
  protected assertOneActive(weights: ReadonlyMap<string, number>, what: string): void {
    const own = [...weights].filter(([name]) => this.adapters.has(name));
    if (own.length < 2 && own.every(([, weight]) => weight === 1)) return;
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `adapters of ${this.name}: expected one adapter of weight 1, because each has its own ${what}, got ` +
        own.map(([name, weight]) => `${name} of weight ${weight}`).join(', '),
    );
  }

  /** The base stays frozen; an adapter trains with the layer, unless it is inactive. */
  protected override holdParts(): void {
    super.holdParts();
    for (const adapter of this.adapters.values()) adapter.held = !this.trainable;
  }

  /**
   * Removes an adapter and frees its weights. Merged adapters are unmerged first.
   *
   * @throws TfjsLoraError `UNKNOWN_ADAPTER`
   */
  removeAdapter(name: string): void {
    this.unmerge();
    const adapter = this.adapter(name);
    for (const key of adapter.parameters.keys()) this.parameters.delete(adapter.placedKey(key));
    this.adapters.delete(name);
    this.activeAdapters = this.activeAdapters.filter((active) => active !== name);
    adapter.dispose();
  }

  /**
   * Gives an adapter another name, in its place among the others.
   *
   * @throws TfjsLoraError `UNKNOWN_ADAPTER`; `INVALID_ARGUMENT` for the name of another adapter
   */
  renameAdapter(name: string, newName: string): void {
    const adapter = this.adapter(name);
    this.assertNewName(newName);
    const placed = () => [...adapter.parameters.keys()].map((key) => adapter.placedKey(key));
    const before = placed();
    adapter.rename(newName, this.name);
    const after = placed();
    renameKeys(this.parameters, new Map(before.map((key, i) => [key, after[i]])));
    renameKeys(this.adapters, new Map([[name, newName]]));
    this.activeAdapters = this.activeAdapters.map((active) => (active === name ? newName : active));
  }

  /** @throws TfjsLoraError `UNKNOWN_ADAPTER` */
  adapter(name: string = DEFAULT_ADAPTER): A {
    const adapter = this.adapters.get(name);
    if (adapter) return adapter;
    throw new TfjsLoraError(
      'UNKNOWN_ADAPTER',
      `adapter "${name}" of ${this.name}: expected one of ${nearestNames(name, this.adapters.keys(), 8).join(', ') || '(none)'}`,
    );
  }

  /** The weights of all adapters, and none of the base. */
  get adapterParameters(): Parameter[] {
    return [...this.parameters.values()];
  }

  /** The layer that computes what this one does, as plain as possible. */
  get current(): ModuleLayer {
    return this;
  }

  /** The weights that its adapters use, also those that another layer's adapters own. */
  get usedParameters(): Parameter[] {
    return [...this.adapters.values()].flatMap(({sources}) => sources);
  }

  override computeOutputShape(inputShape: tf.Shape | tf.Shape[]): tf.Shape {
    return this.base.computeOutputShape(inputShape) as tf.Shape;
  }

  /** Merges permanently and returns the plain layer; this layer must not be used again. */
  fuse(options?: MergeOptions): ModuleLayer {
    this.merge(options);
    this.forgetUnmerged();
    for (const adapter of this.adapters.values()) adapter.dispose();
    this.adapters.clear();
    this.parameters.clear();
    this.activeAdapters = [];
    return this.base;
  }

  override disposeWeights(): number {
    this.forgetUnmerged();
    const {size} = this.parameters;
    for (const adapter of this.adapters.values()) {
      for (const key of adapter.parameters.keys()) this.parameters.delete(adapter.placedKey(key));
      adapter.dispose(); // may free more than its own weights
    }
    return size + super.disposeWeights();
  }
}
