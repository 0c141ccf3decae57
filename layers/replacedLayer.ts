import {AdaptedLayer} from './adaptedLayer.ts';
import type {Adapter} from './adapter.ts';
import type {ModuleLayer} from './moduleLayer.ts';
import {releaseWeightsOf} from './ops/tfjsInternals.ts';

/** An adapted layer whose merge puts another layer in the base's place. */
export abstract class ReplacedLayer<B extends ModuleLayer, A extends Adapter> extends AdaptedLayer<A> {
  base: B;
  #original?: B; // the base before a merge; private, so that it is no sub-layer

  /** @param base a built layer */
  constructor(base: B) {
    super({name: base.name});
    this.supportsMasking = base.supportsMasking;
    this.base = base;
    base.trainable = false;
    this.built = true;
  }

  override get original(): B {
    return this.#original ?? this.base;
  }

  override get isMerged(): boolean {
    return this.#original !== undefined;
  }

  /** Keeps the base aside and puts `merged` in its place. */
  protected replaceBase(merged: B): void {
    this.#original = this.base;
    this.base = merged;
  }

  /** Puts the base back, and returns the layer that was in its place; undefined if the layer is not merged. */
  protected restoreBase(): B | undefined {
    if (!this.#original) return undefined;
    const merged = this.base;
    this.base = this.#original;
    this.#original = undefined;
    return merged;
  }

  override unmerge(): void {
    this.restoreBase()?.disposeWeights();
  }

  protected override forgetUnmerged(): void {
    if (this.#original) releaseWeightsOf(this.#original);
    this.#original = undefined;
  }
}
