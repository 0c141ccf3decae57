import type * as tf from '@tensorflow/tfjs';
import type {StorageDtype} from '../quant/float16.ts';
import {releaseWeightsOf} from './ops/tfjsInternals.ts';
import {Parameter} from './parameter.ts';
import {QuantizedDense} from './quantizedDense.ts';
import {TiedHead} from './tiedHead.ts';
import type {TransposedDense} from './transposedDense.ts';

/** A linear layer as it was before adapters are merged into it. */
export class UnmergedDense {
  /** The layer to merge into: the original, or where that cannot be written, one with its values. */
  readonly mergeable: TransposedDense;
  private readonly copies: [weight: Parameter, before: Parameter][] = [];

  /**
   * @param storage type of the weight to merge into, if the original is replaced
   * @param mergesBias whether a merge changes the bias too
   */
  constructor(
    readonly original: TransposedDense,
    storage: StorageDtype,
    mergesBias: boolean,
  ) {
    if (original instanceof QuantizedDense || original instanceof TiedHead) {
      this.mergeable = original instanceof TiedHead ? original.untied() : original.dequantize(storage);
      for (const [key, parameter] of original.parameters) parameter.rename(this.nameOf(key));
      return;
    }
    this.mergeable = original;
    this.keep('weight', original.weight);
    if (mergesBias && original.bias) this.keep('bias', original.bias);
  }

  private keep(key: string, weight: Parameter): void {
    const {logicalShape: shape, storage} = weight;
    const name = this.nameOf(key);
    const before = new Parameter({name, shape, storage: storage as StorageDtype, trainable: false});
    const value = weight.read().clone();
    before.write(value);
    value.dispose();
    this.copies.push([weight, before]);
  }

  private nameOf(key: string): string {
    return `${this.original.name}.unmerged.${key}`;
  }

  /** The variables that hold what was before the merge. */
  get weights(): tf.LayerVariable[] {
    if (this.mergeable !== this.original) return this.original.weights;
    return this.copies.flatMap(([, before]) => before.variables);
  }

  /** Gives the original its weights back, bit for bit. */
  restore(): void {
    if (this.mergeable !== this.original) {
      this.mergeable.disposeWeights();
      for (const [key, parameter] of this.original.parameters)
        parameter.rename(`${this.original.name}.${key}`);
    }
    for (const [weight, before] of this.copies) {
      weight.write(before.read());
      before.dispose();
    }
  }

  /** Frees the weights from before the merge. */
  dispose(): void {
    if (this.mergeable !== this.original) releaseWeightsOf(this.original);
    for (const [, before] of this.copies) before.dispose();
  }
}
