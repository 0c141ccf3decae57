import type * as tf from '@tensorflow/tfjs';
import {AdaptedLayer} from '../../layers/adaptedLayer.ts';
import {LoRADense} from '../../layers/loraDense.ts';
import {LoRAEmbedding} from '../../layers/loraEmbedding.ts';
import {walk} from '../../layers/moduleLayer.ts';
import {TokenEmbedding} from '../../layers/tokenEmbedding.ts';
import {TransposedDense} from '../../layers/transposedDense.ts';
import type {LayeredModel} from '../replaceLayer.ts';
import {originalOf} from './originalOf.ts';
import type {TargetCandidates} from './targetModules.ts';

/** A layer that can have low-rank adapters, or has them. */
export type Adaptable = TransposedDense | TokenEmbedding | LoRADense | LoRAEmbedding;

export const isLowRank = (layer: tf.layers.Layer): layer is LoRADense | LoRAEmbedding =>
  layer instanceof LoRADense || layer instanceof LoRAEmbedding;

/** Returns the layers with adapters of any kind, by name. */
export function adaptedLayers(layers: tf.layers.Layer[]): Map<string, AdaptedLayer> {
  const found = walk(layers).filter((layer) => layer instanceof AdaptedLayer);
  return new Map(found.map((layer) => [layer.name, layer]));
}

/** Returns the layers that a target may name, adapted or not. */
export function adaptableLayers(layers: tf.layers.Layer[]): Map<string, Adaptable> {
  const found = new Map<string, Adaptable>();
  for (const layer of walk(layers)) {
    const isBase = layer instanceof TransposedDense || layer instanceof TokenEmbedding;
    if (isLowRank(layer) || (isBase && !found.has(layer.name))) found.set(layer.name, layer);
  }
  return found;
}

/** Returns the names that targets may match. */
export function targetCandidates(model: LayeredModel): TargetCandidates {
  const refused = new Map(model.refused);
  for (const [name, layer] of adaptedLayers(model.layers))
    if (!isLowRank(layer))
      refused.set(name, `adapter "${[...layer.adapters.keys()][0]}" trains it whole or in part`);
  const names = [...adaptableLayers(model.layers)].filter(([name]) => !refused.has(name));
  const isEmbedding = ([, layer]: [string, Adaptable]) => originalOf(layer) instanceof TokenEmbedding;
  return {
    linear: names.filter((entry) => !isEmbedding(entry)).map(([name]) => name),
    embeddings: names.filter(isEmbedding).map(([name]) => name),
    head: model.lm_head?.name,
    refused,
  };
}
