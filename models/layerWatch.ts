import type * as tf from '@tensorflow/tfjs';
import type {OptionNames} from '../quant/knownOptions.ts';
import {letSignalsThrough} from './letSignalsThrough.ts';

/** Number of layers that are done, and of all layers. */
export interface LayerProgress {
  layer: string;
  done: number;
  total: number;
}

/** Options for watching and stopping work that goes from layer to layer. */
export interface LayerWatch {
  /** Called after each layer. */
  onProgress?: (progress: LayerProgress) => void;
  /** Stops before the next layer, with the signal's reason as the error. */
  signal?: AbortSignal;
}
export const LAYER_WATCH_OPTIONS = {onProgress: true, signal: true} satisfies OptionNames<LayerWatch>;

/** Yields layers, reports each once the loop is done with it, and stops at an aborted signal. */
export async function* watched<L extends tf.layers.Layer>(
  layers: readonly L[],
  {onProgress, signal}: LayerWatch,
): AsyncGenerator<L, void, undefined> {
  for (const [index, layer] of layers.entries()) {
    await letSignalsThrough(signal);
    yield layer;
    onProgress?.({layer: layer.name, done: index + 1, total: layers.length});
  }
}
