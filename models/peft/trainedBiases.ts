import type * as tf from '@tensorflow/tfjs';
import {LoRADense} from '../../layers/loraDense.ts';
import {walk} from '../../layers/moduleLayer.ts';
import {TransposedDense} from '../../layers/transposedDense.ts';

/** Which biases of the base train with an adapter: none, those of the adapted layers, or all. PEFT's `bias`. */
export type TrainedBiases = 'none' | 'lora_only' | 'all';

/** Whether an adapter with this option trains biases of the base. */
export const trainsBiases = (biases: TrainedBiases | undefined): boolean => (biases ?? 'none') !== 'none';

/** Returns the linear layers whose biases an adapter trains, in the model's order. */
export function layersWithTrainedBias(
  layers: tf.layers.Layer[],
  adapterName: string,
  biases: TrainedBiases = 'none',
): TransposedDense[] {
  if (!trainsBiases(biases)) return [];
  const all = walk(layers);
  const isAdapted = (layer: tf.layers.Layer) => layer instanceof LoRADense && layer.adapters.has(adapterName);
  const adapted = new Set(all.filter(isAdapted).map((layer) => (layer as LoRADense).base));
  return all.filter(
    (layer): layer is TransposedDense =>
      layer instanceof TransposedDense &&
      layer.bias !== undefined &&
      (biases === 'all' || adapted.has(layer)),
  );
}

/** Makes the biases of `chosen` layers train; biases of other layers in the model that trained alone no longer do. */
export function trainBiasesOf(layers: tf.layers.Layer[], chosen: TransposedDense[]): void {
  for (const layer of walk(layers)) {
    if (!(layer instanceof TransposedDense)) continue;
    const trains = chosen.includes(layer);
    if (!trains && !layer.trainsBiasAlone) continue;
    layer.trainsBiasAlone = trains;
    layer.trainable = trains;
  }
}
