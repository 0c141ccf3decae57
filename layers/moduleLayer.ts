import * as tf from '@tensorflow/tfjs';
import {assertStorageDtype} from '../quant/assertStorageDtype.ts';
import {counted} from '../quant/counted.ts';
import {TfjsLoraError} from '../quant/errors.ts';
import type {StorageDtype} from '../quant/float16.ts';
import {assertKnownArgs, type OptionNames} from '../quant/knownOptions.ts';
import {show} from '../quant/show.ts';
import {releaseWeightsOf} from './ops/tfjsInternals.ts';
import {Parameter} from './parameter.ts';

type Layer = tf.layers.Layer;
const {Layer: AnyLayer} = tf.layers;
export type LayerArgs = ConstructorParameters<typeof tf.layers.Layer>[0] & {};

/** The options that every Keras layer takes. */
export const LAYER_OPTIONS = {
  inputShape: true,
  batchInputShape: true,
  batchSize: true,
  dtype: true,
  name: true,
  trainable: true,
  weights: true,
  inputDType: true,
  customObjects: true, // Keras puts it into every config that it reads
} satisfies OptionNames<LayerArgs & {customObjects?: unknown}>;

export interface AddParameterOptions {
  storage?: StorageDtype;
  trainable?: boolean;
  initialize: () => tf.Tensor;
}

/**
 * The base class of all layers here. It adds to `tf.layers.Layer` weights that may be declared without memory or stored
 * in 16 bits, sub-layers (any property that holds a layer is one, as in Keras and PyTorch), and logical
 * parameter counts. Subclass it as you would `tf.layers.Layer`.
 *
 * A subclass that lists its options as `static optionNames` refuses all others.
 */
export abstract class ModuleLayer extends tf.layers.Layer {
  /** Own weights by their name in a model's files: `weight`, `bias`. */
  readonly parameters = new Map<string, Parameter>();
  private isHeld = false;

  /** @throws TfjsLoraError `INVALID_ARGUMENT` for an option that the class does not have */
  constructor(args?: LayerArgs) {
    assertKnownArgs(new.target, args);
    super(args);
  }

  /**
   * Declares a weight in `build`; its full name is `<layer name>.<name>`. A 16-bit weight never trains. A weight
   * declared with `trainable: false` stays frozen when the layer is unfrozen, unless the layer is frozen now, which may
   * be the reason.
   */
  protected addParameter(name: string, shape: number[], options: AddParameterOptions): Parameter {
    const {storage = 'float32', trainable = true, initialize} = options;
    assertStorageDtype(`${this.name} storage`, storage);
    const trains = storage === 'float32' && (trainable || !this.trainable);
    return this.adopt(
      name,
      new Parameter({name: `${this.name}.${name}`, shape, storage, trainable: trains, initialize}),
    );
  }

  /** Adds a weight with a class of its own to this layer. */
  protected adopt<P extends Parameter>(name: string, parameter: P): P {
    this.parameters.set(name, parameter);
    parameter.held = !this.trainable;
    return parameter;
  }

  /** Builds a sub-layer for its input shape, once. */
  protected buildSublayer(layer: Layer, inputShape: tf.Shape): void {
    if (layer instanceof ModuleLayer) layer.held = !this.trainable;
    if (layer.built) return;
    layer.build(inputShape);
    layer.built = true;
  }

  /** Sub-layers by property name, in the order they were assigned. */
  get sublayers(): [key: string, layer: Layer][] {
    const found: [string, Layer][] = [];
    for (const key of Object.keys(this)) {
      // all layers are walked several times per step, so make no entry for other properties
      const value = (this as Record<string, unknown>)[key];
      if (typeof value === 'object' && value instanceof AnyLayer) found.push([key, value]);
    }
    return found;
  }

  /** Whether its weights train: false while it is frozen itself or held. */
  override get trainable(): boolean {
    return this.trainable_ && !this.isHeld;
  }

  override set trainable(trainable: boolean) {
    this.trainable_ = trainable;
    this.holdParts();
  }

  /** Whether it would train if the layer around it did. */
  get isTrainableAlone(): boolean {
    return this.trainable_;
  }

  /** Whether the layer around it freezes it; when released, whatever was frozen inside stays frozen. */
  set held(held: boolean) {
    this.isHeld = held;
    this.holdParts();
  }

  /** Freezes its weights and sub-layers with this layer, or releases them. */
  protected holdParts(): void {
    const held = !this.trainable;
    for (const parameter of this.parameters.values()) parameter.held = held;
    for (const [, layer] of this.sublayers) {
      if (layer instanceof ModuleLayer) layer.held = held;
      else layer.trainable = !held;
    }
  }

  override get trainableWeights(): tf.LayerVariable[] {
    if (!this.trainable) return [];
    const own = [...this.parameters.values()].filter((parameter) => parameter.trainable);
    return [
      ...own.flatMap(({variables}) => variables),
      ...this.sublayers.flatMap(([, layer]) => layer.trainableWeights),
    ];
  }

  override get nonTrainableWeights(): tf.LayerVariable[] {
    const own = [...this.parameters.values()].filter((parameter) => !this.trainable || !parameter.trainable);
    const nested = this.sublayers.flatMap(([, layer]) =>
      this.trainable ? layer.nonTrainableWeights : layer.weights,
    );
    return [...own.flatMap(({variables}) => variables), ...nested];
  }

  /**
   * Sets all weights, in the order of `getWeights`; checks every one before writing any.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` for a wrong number of weights, `SHAPE_MISMATCH` for a wrong shape or type,
   *   naming the weight
   */
  override setWeights(weights: tf.Tensor[]): void {
    writeWeights(`layer ${this.name}`, this.weights, weights);
  }

  /** Returns the logical number of parameters, including sub-layers; a packed weight counts its 16-bit elements. */
  override countParams(): number {
    const own = [...this.parameters.values()].reduce((sum, parameter) => sum + parameter.size, 0);
    return this.sublayers.reduce((sum, [, layer]) => sum + layer.countParams(), own);
  }

  /** Disposes as in Keras, but also counts a layer as used that was built by hand or wraps a built one. */
  override dispose(): ReturnType<Layer['dispose']> {
    if (this.built) this._refCount ??= 1;
    return super.dispose();
  }

  override disposeWeights(): number {
    for (const parameter of this.parameters.values()) parameter.dispose();
    return this.sublayers.reduce((count, [, layer]) => count + releaseWeightsOf(layer), this.parameters.size);
  }
}

/**
 * Writes tensors into variables after checking all of them.
 *
 * @param what the owner of the weights, for messages
 * @throws TfjsLoraError `INVALID_ARGUMENT`, `SHAPE_MISMATCH`
 */
export function writeWeights(what: string, variables: tf.LayerVariable[], weights: tf.Tensor[]): void {
  assertTaken(what, variables, weights);
  tf.tidy(() => {
    for (const [i, variable] of variables.entries()) variable.write(weights[i]);
  });
}

function assertTaken(what: string, variables: tf.LayerVariable[], weights: tf.Tensor[]): void {
  if (!Array.isArray(weights) || weights.length !== variables.length) {
    const names = variables.slice(0, 8).map(({originalName}) => originalName);
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `setWeights of ${what}: expected ${counted(variables.length, 'tensor')} (${names.join(', ')}${variables.length > 8 ? ', …' : ''}), ` +
        `got ${Array.isArray(weights) ? weights.length : show(weights)}`,
    );
  }
  for (const [i, variable] of variables.entries()) {
    const weight = weights[i];
    if (!(weight instanceof tf.Tensor)) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `setWeights of ${what}: expected a tensor for ${variable.originalName}, got ${show(weight)}`,
      );
    }
    if (variable instanceof Parameter) variable.assertTakes(weight);
  }
}

/** Yields every weight under `layers` in order, with its full name in files. */
export function* namedParameters(layers: Iterable<Layer>): Generator<[name: string, parameter: Parameter]> {
  for (const layer of walk(layers)) {
    if (!(layer instanceof ModuleLayer)) continue;
    for (const [name, parameter] of layer.parameters) yield [`${layer.name}.${name}`, parameter];
  }
}

/** Returns the layers and all their sub-layers as they are now, parents first. */
export function walk(layers: Iterable<Layer>, found: Layer[] = []): Layer[] {
  for (const layer of layers) {
    found.push(layer);
    if (layer instanceof ModuleLayer)
      walk(
        layer.sublayers.map(([, sublayer]) => sublayer),
        found,
      );
  }
  return found;
}

/** Returns the only tensor of a layer's input, which Keras passes bare or in a list. */
export function onlyInput<T extends tf.Tensor = tf.Tensor>(inputs: tf.Tensor | tf.Tensor[]): T {
  return (Array.isArray(inputs) ? inputs[0] : inputs) as T;
}

/** Reshapes `[..., C]` to `[N, C]`; costs nothing if it already has that shape. */
export function flatten(x: tf.Tensor, size: number): tf.Tensor2D {
  return (x.rank === 2 ? x : x.reshape([-1, size])) as tf.Tensor2D;
}

/** Reshapes the result `[N, units]` for {@link flatten}ed rows of `x` to `[..., units]`. */
export function unflatten(y: tf.Tensor2D, x: tf.Tensor): tf.Tensor {
  return x.rank === 2 ? y : y.reshape([...x.shape.slice(0, -1), y.shape[1]]);
}

/** Returns the only shape of a layer's input, which Keras passes bare or in a list. */
export function onlyShape(shape: tf.Shape | tf.Shape[]): tf.Shape {
  return (Array.isArray(shape[0]) ? shape[0] : shape) as tf.Shape;
}
