import type * as tf from '@tensorflow/tfjs';
import {AdaptedLayer} from './adaptedLayer.ts';
import type {LayerCopy} from './layerCopy.ts';
import type {ModuleLayer} from './moduleLayer.ts';
import {releaseWeightsOf} from './ops/tfjsInternals.ts';

/**
 * A layer that adapters replace by a trained copy of their own: PEFT's `modules_to_save`. Without an active adapter it
 * is the layer it wraps. Input, output and settings are that layer's.
 */
export class CopiedLayer extends AdaptedLayer<LayerCopy> {
  base: ModuleLayer;
  #original?: ModuleLayer; // the base while a copy is in its place; private, so that it is no sub-layer

  /** @param base a built layer */
  constructor(base: ModuleLayer) {
    super({name: base.name});
    this.supportsMasking = base.supportsMasking;
    this.base = base;
    base.trainable = false;
    this.built = true;
  }

  /**
   * Adds a copy as an adapter and activates it.
   *
   * @throws TfjsLoraError `INVALID_ARGUMENT` for a name that exists
   */
  addCopy(copy: LayerCopy): LayerCopy {
    this.assertNewName(copy.name);
    return this.keep(copy);
  }

  override assertActive(weights: ReadonlyMap<string, number>): void {
    this.assertOneActive(weights, 'copy of this layer (modulesToSave)');
  }

  override get original(): ModuleLayer {
    return this.#original ?? this.base;
  }

  /** The layer that computes: the active adapter's copy, otherwise the base. */
  override get current(): ModuleLayer {
    return this.active?.layer ?? this.base;
  }

  private get active(): LayerCopy | undefined {
    return this.adapters.get(this.activeAdapters[0]);
  }

  override get knowsRows(): boolean {
    return true;
  }

  override call(inputs: tf.Tensor | tf.Tensor[], kwargs?: object): tf.Tensor {
    if (this.rowNames) return this.callByRows(inputs, kwargs);
    return this.current.apply(inputs, kwargs as tf.serialization.ConfigDict & object) as tf.Tensor;
  }

  override get isMerged(): boolean {
    return this.#original !== undefined;
  }

  /** Puts the active copy in the base's place. */
  override merge(): void {
    const {active} = this;
    if (this.isMerged || !active) return;
    this.#original = this.base;
    this.base = active.layer;
    active.layer.trainable = false;
    for (const key of active.parameters.keys()) this.parameters.delete(active.placedKey(key));
  }

  override unmerge(): void {
    const {active} = this;
    if (!this.#original || !active) return;
    this.base = this.#original;
    this.#original = undefined;
    active.layer.trainable = true;
    this.list(active);
  }

  override fuse(): ModuleLayer {
    this.merge();
    const {active} = this;
    if (active) this.adapters.delete(active.name); // its layer stays
    return super.fuse();
  }

  protected override forgetUnmerged(): void {
    if (this.#original) releaseWeightsOf(this.#original);
    this.#original = undefined;
  }
}
