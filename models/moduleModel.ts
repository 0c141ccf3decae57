import * as tf from '@tensorflow/tfjs';
import {ModuleLayer, namedParameters, walk, writeWeights} from '../layers/moduleLayer.ts';
import type {Parameter} from '../layers/parameter.ts';
import {nearestNames, TfjsLoraError} from '../quant/errors.ts';
import type {StorageDtype} from '../quant/float16.ts';
import {assertIdle} from './assertIdle.ts';
import {printSummary} from './summary.ts';

/**
 * The base of all models: a `tf.LayersModel` with weights under Hugging Face's names, which may be declared without
 * memory or stored in 16 bits. Any use after `dispose` throws.
 */
export abstract class ModuleModel extends tf.LayersModel {
  /** Name of the call that is training the model: `fitDataset`. Meanwhile, calls that change the model are refused. */
  busyWith?: string;

  /**
   * @param container the symbolic graph, as for `tf.model`
   * @param storage storage type of the matrices in memory
   */
  constructor(
    container: ConstructorParameters<typeof tf.LayersModel>[0],
    readonly storage: StorageDtype,
  ) {
    super(container);
  }

  /** Whether its weights train, if their own layers do. Setting it false freezes every layer, adapters included. */
  override get trainable(): boolean {
    return super.trainable;
  }

  override set trainable(trainable: boolean) {
    this.trainable_ = trainable;
    for (const layer of this.layers) if (layer instanceof ModuleLayer) layer.held = !trainable;
  }

  /** Returns all weights by their names in files; adapters as `….lora_A.<adapter>.weight`. */
  namedParameters(): Map<string, Parameter> {
    this.assertUsable();
    return new Map(namedParameters(this.layers));
  }

  /**
   * Sets all weights, in the order of `getWeights`. All are checked before any is written.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` when their number is wrong, `SHAPE_MISMATCH` naming one whose shape or
   *   type is wrong
   */
  override setWeights(weights: tf.Tensor[]): void {
    this.assertChangeable('setWeights');
    writeWeights(`model ${this.name}`, this.weights, weights);
  }

  /** Finds a layer by Hugging Face's module name, at any depth, or a top-level layer by its index. */
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

  /** Returns the number of parameters. A 16-bit weight counts its elements, not its packed words. */
  override countParams(): number {
    return this.layers.reduce((sum, layer) => sum + layer.countParams(), 0);
  }

  /**
   * Prints a table of layers, output shapes and parameters, even when weights are not allocated.
   *
   * @param printFn receives each line. Default `console.log`
   */
  override summary(lineLength?: number, positions?: number[], printFn?: (line: string) => void): void {
    printSummary(this, lineLength, positions, printFn);
  }

  /** Bytes of all weights in memory, adapters included. */
  get byteLength(): number {
    return [...new Set(this.namedParameters().values())].reduce((sum, {byteLength}) => sum + byteLength, 0);
  }

  /** Frees every weight. Any later use throws; disposing again does nothing. */
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

  /** @throws TfjsLoraError `DISPOSED`; `UNSUPPORTED` while the model trains */
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
