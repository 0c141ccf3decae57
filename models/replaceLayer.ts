import type * as tf from '@tensorflow/tfjs';
import {ModuleLayer, walk} from '../layers/moduleLayer.ts';

/** A model whose layers can be replaced. */
export interface LayeredModel {
  readonly layers: tf.layers.Layer[];
  /** The output head, which `all-linear` leaves out. */
  lm_head?: tf.layers.Layer;
  /** Layers that cannot be adapted, with the reason. */
  readonly refused?: ReadonlyMap<string, string>;
  /** Whether another model has the same base weights, which must then not change. Default false. */
  readonly sharesBase?: boolean;
  /**
   * The ranges of layers that run one after the other, if any. Repeated layers share their weights, which must not
   * change.
   */
  readonly replication?: readonly LayerRange[];
  /** Runs ranges of layers one after the other; see PEFT's `layer_replication`. The returned function undoes it. */
  replicateLayers?(ranges: readonly LayerRange[]): () => void;
}

/** Numbers of layers, from the first to the one before the second. */
export type LayerRange = readonly [start: number, end: number];

/** Replaces a layer with another: in the layer that contains it, or at the top of the model and in its fields. */
export function replaceLayer<L extends tf.layers.Layer>(
  model: LayeredModel,
  layer: tf.layers.Layer,
  by: L,
): L {
  const top = model.layers.indexOf(layer);
  if (top >= 0) {
    model.layers[top] = by;
    for (const [field, value] of Object.entries(model))
      if (value === layer) Object.assign(model, {[field]: by});
    return by;
  }
  for (const parent of walk(model.layers)) {
    if (!(parent instanceof ModuleLayer)) continue;
    const slot = parent.sublayers.find(([, sublayer]) => sublayer === layer);
    if (slot) {
      Object.assign(parent, {[slot[0]]: by});
      return by;
    }
  }
  throw new Error(`layer ${layer.name} is not in the model`);
}
