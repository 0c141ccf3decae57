import * as tf from '@tensorflow/tfjs';
import type {AdaptedLayer} from '../../layers/adaptedLayer.ts';
import type {LoRAAdapter} from '../../layers/loraAdapter.ts';
import {LoRADense} from '../../layers/loraDense.ts';
import type {RowFactors} from '../../layers/rowFactors.ts';
import {TfjsLoraError} from '../../quant/errors.ts';

/** The name of the model without an adapter, in {@link RowAdapters}, as in PEFT. */
export const BASE = '__base__';

/** The part of a model's adapters that {@link RowAdapters} needs. */
interface Adapters {
  /** @throws TfjsLoraError `UNKNOWN_ADAPTER` */
  options(name: string): unknown;
  layers(): Map<string, AdaptedLayer>;
  with<R>(names: readonly string[], fn: () => R): R;
}

/**
 * The adapter of each row of a batch. Its passes share the products with the base's weights. Rows with one common
 * adapter run as if only it were active. The stacked weights are copies, which {@link dispose} frees.
 */
export class RowAdapters {
  private readonly factors = new Map<LoRADense, RowFactors>();
  /** The adapters whose weights were copied, by layer. */
  private readonly copied = new Map<LoRADense, [name: string, adapter: LoRAAdapter][]>();
  private readonly layers: AdaptedLayer[];
  private readonly active: string[];

  /**
   * @param names the adapter of each row, or {@link BASE}; all exist
   * @throws TfjsLoraError `UNSUPPORTED` for a layer that cannot give each row its own adapter
   */
  constructor(
    private readonly adapters: Adapters,
    private readonly names: readonly string[],
  ) {
    const isCommon = new Set(names).size === 1;
    this.active = isCommon && names[0] !== BASE ? [names[0]] : [];
    const all = isCommon ? [] : [...adapters.layers().values()];
    this.layers = all.filter((layer) => names.some((name) => layer.adapters.has(name)));
    const whole = this.layers.find(({knowsRows}) => !knowsRows);
    if (whole) {
      throw new TfjsLoraError(
        'UNSUPPORTED',
        `adapterNames: expected layers that can give each row its own adapter, got ${whole.name}, a ` +
          `${whole.constructor.name}, which cannot. Pass its rows in a batch of their own.`,
      );
    }
    for (const layer of this.layers) {
      if (!(layer instanceof LoRADense)) continue;
      const factors = layer.stackRows(names);
      if (!factors) continue;
      this.factors.set(layer, factors);
      this.copied.set(
        layer,
        [...layer.adapters].filter(([name]) => names.includes(name)),
      );
    }
  }

  /**
   * Runs a forward pass of the rows, which must be synchronous.
   *
   * @throws TfjsLoraError `UNKNOWN_ADAPTER` for one that was deleted or renamed since, even if another has its name now
   */
  run<R>(pass: () => R): R {
    for (const name of new Set(this.names)) if (name !== BASE) this.adapters.options(name);
    this.assertSame();
    return this.adapters.with(this.active, () => {
      for (const layer of this.layers) layer.rowNames = this.names;
      for (const [layer, factors] of this.factors) layer.rowFactors = factors;
      try {
        return pass();
      } finally {
        for (const layer of this.layers) layer.rowNames = undefined;
        for (const layer of this.factors.keys()) layer.rowFactors = undefined;
      }
    });
  }

  private assertSame(): void {
    for (const [layer, adapters] of this.copied) {
      const [name] = adapters.find(([name, adapter]) => layer.adapters.get(name) !== adapter) ?? [];
      if (name === undefined) continue;
      throw new TfjsLoraError(
        'UNKNOWN_ADAPTER',
        `adapter "${name}": expected the one that the rows were prepared with, got another. Prepare them again.`,
      );
    }
  }

  dispose(): void {
    for (const factors of this.factors.values()) tf.dispose({...factors});
    this.factors.clear();
  }
}
