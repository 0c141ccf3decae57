import * as tf from '@tensorflow/tfjs';
import type {MergeOptions} from '../../layers/adaptedLayer.ts';
import {LoRADense} from '../../layers/loraDense.ts';
import {membersOf} from '../../layers/ops/tfjsInternals.ts';
import {unpackMatrix} from '../../layers/ops/unpackMatrix.ts';
import type {TransposedDenseArgs} from '../../layers/transposedDense.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {assertKnownOptions} from '../../quant/knownOptions.ts';
import {MERGE_ADAPTERS_OPTIONS, type MergeAdaptersOptions} from '../peft/adapterMerge.ts';
import {FrozenBatchNorm} from './frozenBatchNorm.ts';
import {rebuildModel} from './rebuildModel.ts';

/**
 * Makes a model whose plain `tf.layers.dense` layers contain the sum of weights and active adapters. It no longer needs
 * this library, unless layers without adapters are quantized. The given model does not change. Both models share all
 * other layers, which stay frozen.
 *
 * @throws TfjsLoraError `UNKNOWN_ADAPTER` for a model without adapters, `UNSUPPORTED` for a quantized layer unless
 *   `dequantize`, `NON_FINITE`; the signal's reason, with nothing kept
 */
export function mergeLoRA(model: tf.LayersModel, options: MergeAdaptersOptions = {}): tf.LayersModel {
  assertKnownOptions('mergeLoRA', options, MERGE_ADAPTERS_OPTIONS);
  const {onProgress, signal, ...merging} = options;
  const total = new Set(adaptedLayers(model)).size;
  const merged: tf.layers.Layer[] = [];
  try {
    const result = rebuildModel(model, (layer, prefix) => {
      if (layer instanceof FrozenBatchNorm) return layer.thawed();
      if (!(layer instanceof LoRADense)) return layer;
      signal?.throwIfAborted();
      merged.push(mergedDense(layer, prefix, merging));
      onProgress?.({layer: layer.name, done: merged.length, total});
      return merged.at(-1) as tf.layers.Layer;
    });
    if (merged.length > 0) return result;
    result.dispose();
  } catch (error) {
    for (const layer of merged) tf.dispose(layer.getWeights());
    throw error;
  }
  throw new TfjsLoraError(
    'UNKNOWN_ADAPTER',
    `mergeLoRA model ${model.name}: expected layers with adapters, got none. Call applyLoRA or loadAdapter first.`,
  );
}

const adaptedLayers = ({layers}: tf.LayersModel): tf.layers.Layer[] =>
  layers.flatMap((layer): tf.layers.Layer[] =>
    layer instanceof tf.LayersModel ? adaptedLayers(layer) : layer instanceof LoRADense ? [layer] : [],
  );

function mergedDense(layer: LoRADense, prefix: string, options?: MergeOptions): tf.layers.Layer {
  const wasMerged = layer.isMerged;
  layer.merge(options);
  try {
    const {units, useBias, activation, weight, bias, inputDim} = layer.base;
    const args = {units, useBias, activation} as TransposedDenseArgs;
    const name = layer.name.startsWith(prefix) ? layer.name.slice(prefix.length) : layer.name;
    const dense = tf.layers.dense({...args, name, trainable: false, kernelInitializer: 'zeros'});
    dense.build([null, inputDim]);
    for (const variable of dense.weights)
      membersOf(variable).originalName = `${name}/${variable.originalName}`;
    tf.tidy(() => {
      const kernel = tf.transpose(unpackMatrix(weight.matrix()));
      dense.setWeights(bias ? [kernel, bias.read()] : [kernel]);
    });
    return dense;
  } finally {
    if (!wasMerged) layer.unmerge();
  }
}
