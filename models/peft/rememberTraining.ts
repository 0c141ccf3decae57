import type * as tf from '@tensorflow/tfjs';
import {AdaptedLayer} from '../../layers/adaptedLayer.ts';
import {ModuleLayer, walk} from '../../layers/moduleLayer.ts';
import {TransposedDense} from '../../layers/transposedDense.ts';
import {ValueHead} from '../../layers/valueHead.ts';

/**
 * Freezes all layers with their own weights, except a value head. Layers around adapters stay trainable, or adapters
 * would not train.
 */
export function freezeBase(layers: tf.layers.Layer[]): void {
  for (const layer of ownLayers(layers))
    if (!(layer instanceof ValueHead)) layer.trainable = layer.parameters.size === 0;
}

/** Remembers which adapters are active and what trains. The returned function restores both. */
export function rememberTraining(layers: tf.layers.Layer[]): () => void {
  const adapted = walk(layers)
    .filter((layer) => layer instanceof AdaptedLayer)
    .map((layer) => ({
      layer,
      active: [...layer.activeAdapters],
      adapters: [...layer.adapters.values()].map((adapter) => {
        const {weight, trainable} = adapter;
        return {adapter, weight, trainable};
      }),
    }));
  const trained = ownLayers(layers).map((layer) => {
    const trainsBiasAlone = layer instanceof TransposedDense && layer.trainsBiasAlone;
    return {layer, trainable: layer.isTrainableAlone, trainsBiasAlone};
  });
  return () => {
    for (const {layer, active, adapters} of adapted) {
      layer.activeAdapters = active;
      for (const {adapter, weight, trainable} of adapters) Object.assign(adapter, {weight, trainable});
    }
    for (const {layer, trainable, trainsBiasAlone} of trained)
      Object.assign(layer, {trainable, ...(trainsBiasAlone && {trainsBiasAlone})});
  };
}

/** Returns the layers of our kind, except adapted ones, which control their own weights. */
function ownLayers(layers: tf.layers.Layer[]): ModuleLayer[] {
  return walk(layers).filter(
    (layer): layer is ModuleLayer => layer instanceof ModuleLayer && !(layer instanceof AdaptedLayer),
  );
}
