import type * as tf from '@tensorflow/tfjs';
import type {LayerCopy} from './layerCopy.ts';
import type {ModuleLayer} from './moduleLayer.ts';
import {ReplacedLayer} from './replacedLayer.ts';

/**
 * A layer that each adapter replaces by its own trained copy: PEFT's `modules_to_save`. Without an active adapter, it
 * computes the wrapped layer. Input, output and settings are those of that layer.
 */
export class CopiedLayer extends ReplacedLayer<ModuleLayer, LayerCopy> {
  static className = 'CopiedLayer';

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

  /** Replaces the base with the active copy. */
  override merge(): void {
    const {active} = this;
    if (this.isMerged || !active) return;
    this.replaceBase(active.layer);
    active.layer.trainable = false;
    for (const key of active.parameters.keys()) this.parameters.delete(active.placedKey(key));
  }

  override unmerge(): void {
    const {active} = this;
    if (!active || !this.restoreBase()) return;
    active.layer.trainable = true;
    this.list(active);
  }

  override fuse(): ModuleLayer {
    this.merge();
    const {active} = this;
    if (active) this.adapters.delete(active.name); // its layer stays
    return super.fuse();
  }
}
