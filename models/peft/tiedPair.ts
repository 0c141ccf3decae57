import type * as tf from '@tensorflow/tfjs';
import {ModuleLayer, walk} from '../../layers/moduleLayer.ts';
import {TiedHead} from '../../layers/tiedHead.ts';
import {originalOf} from './originalOf.ts';

/** A head and the embedding whose table it uses, as they are in the model, adapted or not. */
export interface TiedPair {
  head: ModuleLayer;
  embedding: ModuleLayer;
}

/** Returns a model's tied head and its embedding if one of them is among `chosen`. */
export function tiedPair(layers: tf.layers.Layer[], chosen: readonly ModuleLayer[]): TiedPair | undefined {
  const all = walk(layers).filter((layer) => layer instanceof ModuleLayer);
  const head = all.find((layer) => originalOf(layer) instanceof TiedHead);
  const table = head && (originalOf(head) as TiedHead).embedding;
  const embedding = all.find((layer) => originalOf(layer) === table);
  if (head && embedding && (chosen.includes(head) || chosen.includes(embedding))) return {head, embedding};
  return undefined;
}
