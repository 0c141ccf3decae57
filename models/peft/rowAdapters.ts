import * as tf from '@tensorflow/tfjs';
import type {LoRADense} from '../../layers/loraDense.ts';
import type {RowFactors} from '../../layers/rowFactors.ts';

/** The name of the model without an adapter, in {@link RowAdapters}, as in PEFT. */
export const BASE = '__base__';

/** The part of a model's adapters that {@link RowAdapters} needs. */
interface Adapters {
  lowRank(): Map<string, LoRADense>;
  with<R>(names: readonly string[], fn: () => R): R;
}

/**
 * The adapter of each row of a batch. Its passes share the products with the base's weights. Rows with one common
 * adapter run as if only it were active. The stacked weights are copies, which {@link dispose} frees.
 */
export class RowAdapters {
  private readonly factors = new Map<LoRADense, RowFactors>();
  private readonly active: string[];

  /** @param names the adapter of each row, or {@link BASE}; all exist */
  constructor(
    private readonly adapters: Adapters,
    names: readonly string[],
  ) {
    const isCommon = new Set(names).size === 1;
    this.active = isCommon && names[0] !== BASE ? [names[0]] : [];
    if (isCommon) return;
    for (const layer of adapters.lowRank().values()) {
      const factors = layer.stackRows(names);
      if (factors) this.factors.set(layer, factors);
    }
  }

  /** Runs a forward pass, which must be synchronous, of all rows or of one after another's positions. */
  run<R>(pass: () => R): R {
    return this.adapters.with(this.active, () => {
      for (const [layer, factors] of this.factors) layer.rowFactors = factors;
      try {
        return pass();
      } finally {
        for (const layer of this.factors.keys()) layer.rowFactors = undefined;
      }
    });
  }

  dispose(): void {
    for (const factors of this.factors.values()) tf.dispose({...factors});
    this.factors.clear();
  }
}
