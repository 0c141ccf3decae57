import type * as tf from '@tensorflow/tfjs';
import type {LoRAFields} from '../../layers/loraFields.ts';
import type {LoRAOptions, LoRAOptionsOf} from '../peft/loraOptions.ts';
import {DenseModules} from './denseModules.ts';

/**
 * Adds low-rank adapters to the dense layers of any `tf.LayersModel`: sequential, functional, nested, or loaded from
 * files. The result shares all weights with the given model without copying them. It is a plain `tf.LayersModel`, which
 * you compile and fit as usual, and in which only the adapters train. The layers that the two models share are frozen
 * (`trainable = false`) in both, and normalize by their moving averages. Disposing of one model frees only what the
 * other does not use.
 *
 * @param options options as for a Llama; `'all-linear'`, the default, means every dense layer here, including the last
 * @throws TfjsLoraError `UNKNOWN_TARGET` naming the nearest layers, or all if none is dense; `UNSUPPORTED` for a target
 *   that is not a dense layer; `INVALID_ARGUMENT` for an unknown option or an impossible rank
 * @example
 * ```ts
 * import * as tf from '@tensorflow/tfjs';
 * import {applyLoRA, saveAdapter} from 'tfjs-lora';
 *
 * const classifier = await tf.loadLayersModel('file://classifier/model.json');
 * const adapted = applyLoRA(classifier, {rank: 8, targetModules: ['dense_1']});
 * adapted.compile({optimizer: 'adam', loss: 'categoricalCrossentropy'});
 * await adapted.fit(tf.randomNormal([8, 32]), tf.oneHot([0, 1, 2, 0, 1, 2, 0, 1], 3));
 * await saveAdapter(adapted, 'adapter'); // PEFT's two files
 * ```
 */
export function applyLoRA<Fields extends LoRAFields>(
  model: tf.LayersModel,
  options: LoRAOptionsOf<Fields>,
): tf.LayersModel;
export function applyLoRA(model: tf.LayersModel, options?: LoRAOptions): tf.LayersModel;
export function applyLoRA(model: tf.LayersModel, options: LoRAOptions = {}): tf.LayersModel {
  const modules = new DenseModules('applyLoRA', model);
  modules.adapters.add(options);
  return modules.rebuilt();
}
