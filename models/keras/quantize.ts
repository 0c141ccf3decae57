import type * as tf from '@tensorflow/tfjs';
import type {QuantizationType} from '../../layers/quantizationArgs.ts';
import {QuantizedDense} from '../../layers/quantizedDense.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {assertKnownOptions} from '../../quant/knownOptions.ts';
import {LAYER_WATCH_OPTIONS, type LayerWatch, watched} from '../layerWatch.ts';
import {type QuantizationOptions, quantizable, resolveQuantizationOptions} from '../quantization.ts';
import {replaceLayer} from '../replaceLayer.ts';
import {DenseModules} from './denseModules.ts';

/**
 * Makes a model whose dense layers are stored in 4 or 8 bits; {@link applyLoRA} on it is QLoRA. The given model does
 * not change, and both models share all other layers. Dispose of the given model to free the memory of its dense
 * layers.
 *
 * @throws TfjsLoraError `UNKNOWN_TARGET` for a model without dense layers, `INVALID_ARGUMENT` for an unknown type or
 *   option or a model with adapters, `NON_FINITE` naming the weight; the signal's reason, with nothing kept
 * @example
 * ```ts
 * import * as tf from '@tensorflow/tfjs';
 * import {applyLoRA, quantize} from 'tfjs-lora';
 *
 * const classifier = await tf.loadLayersModel('file://classifier/model.json');
 * const small = await quantize(classifier, {type: 'nf4', doubleQuant: true});
 * const adapted = applyLoRA(small, {rank: 4}); // QLoRA
 * ```
 */
export async function quantize(
  model: tf.LayersModel,
  options: QuantizationOptions | QuantizationType,
  watch: LayerWatch = {},
): Promise<tf.LayersModel> {
  assertKnownOptions('quantize', watch, LAYER_WATCH_OPTIONS);
  const resolved = resolveQuantizationOptions('quantize', options);
  const modules = new DenseModules('quantize', model);
  const [adapted] = modules.adapted;
  if (adapted) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `quantize layer ${adapted.name}: expected no adapters, got ${[...adapted.adapters.keys()].join(', ')}. ` +
        'Quantize the model first, then call applyLoRA.',
    );
  }
  const {skipModules = [], ...quantization} = resolved;
  const quantized: QuantizedDense[] = [];
  try {
    for await (const layer of watched([...quantizable(modules.layers, skipModules)], watch)) {
      quantized.push(replaceLayer(modules, layer, await QuantizedDense.fromDense(layer, quantization)));
    }
    return modules.rebuilt();
  } catch (error) {
    for (const layer of quantized) layer.disposeWeights();
    throw error;
  }
}
