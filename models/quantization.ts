import type * as tf from '@tensorflow/tfjs';
import {AdaptedLayer} from '../layers/adaptedLayer.ts';
import {walk} from '../layers/moduleLayer.ts';
import {
  type QuantizationArgs,
  type QuantizationType,
  resolveQuantization,
} from '../layers/quantizationArgs.ts';
import {QuantizedDense} from '../layers/quantizedDense.ts';
import {TiedHead} from '../layers/tiedHead.ts';
import {TransposedDense} from '../layers/transposedDense.ts';
import type {TensorSource} from '../quant/bitsandbytesState.ts';
import {TfjsLoraError} from '../quant/errors.ts';
import {isBitsandbytesType, isFourBitType, storedQuantizer} from '../quant/quantizerRegistry.ts';
import {type LayerWatch, watched} from './layerWatch.ts';
import {type LayeredModel, replaceLayer} from './replaceLayer.ts';
import {skipsModule} from './skipsModule.ts';

export interface QuantizationOptions extends QuantizationArgs {
  /**
   * Linear layers that are not quantized, as in `llm_int8_skip_modules` of transformers 5: the end of a name, or a
   * Python regular expression for its beginning (`model\.layers\.[0-3]`); see models/skipsModule.ts. Default
   * `['lm_head']`.
   */
  skipModules?: string[];
}

/**
 * Does what {@link resolveQuantization} does, for a whole model.
 *
 * @param call name of the function, for messages
 */
export function resolveQuantizationOptions(
  call: string,
  given: QuantizationOptions | QuantizationType,
): QuantizationOptions {
  const options = resolveQuantization<QuantizationOptions>(call, given, {skipModules: true});
  const {skipModules = []} = options;
  if (Array.isArray(skipModules) && skipModules.every((name) => typeof name === 'string')) {
    skipsModule(skipModules, `${call} skipModules`); // throws for an invalid expression
    return options;
  }
  throw new TfjsLoraError(
    'INVALID_ARGUMENT',
    `${call} skipModules: expected a list of names such as ['lm_head'], got ${typeof skipModules}`,
  );
}

/** Yields the linear layers to quantize: all but the embedding and those in `skipModules`. */
export function* quantizable(
  layers: Iterable<tf.layers.Layer>,
  skipModules: string[],
): Generator<TransposedDense> {
  const isSkipped = skipsModule(skipModules, 'skipModules');
  for (const layer of walk(layers)) {
    if (!(layer instanceof TransposedDense) || layer instanceof QuantizedDense || layer instanceof TiedHead)
      continue;
    if (!isSkipped(layer.name)) yield layer;
  }
}

/** Declares the linear layers of a model without weights as quantized, to be filled from files. */
export function declareQuantized(model: LayeredModel, options: QuantizationOptions): void {
  const {skipModules, quantization} = settingsOf(options);
  for (const layer of [...quantizable(model.layers, skipModules)]) {
    replaceLayer(model, layer, QuantizedDense.like(layer, quantization));
    layer.disposeWeights();
  }
}

/**
 * Declares those linear layers of a model without weights as quantized that its files store quantized, in their types,
 * regardless of its config.
 *
 * @param options the config's; further ones belong to a quantizer of that type
 * @returns whether there are any
 */
export function declareStored(
  model: LayeredModel,
  files: TensorSource,
  options: Partial<QuantizationOptions>,
): boolean {
  const {skipModules, computeDtype, ...settings} = options;
  const stored = [...quantizable(model.layers, [])].flatMap((layer) => {
    const type = storedQuantizer(`${layer.name}.weight`, files)?.name;
    return type === undefined ? [] : [{layer, type}];
  });
  for (const {layer, type} of stored) {
    const isDouble = files.has(`${layer.name}.weight.nested_absmax`);
    const own = isBitsandbytesType(type) || type !== settings.type ? {} : settings;
    const quantization = {...own, type, computeDtype, ...(isFourBitType(type) && {doubleQuant: isDouble})};
    replaceLayer(model, layer, QuantizedDense.like(layer, quantization));
    layer.disposeWeights();
  }
  return stored.length > 0;
}

/** Quantizes a model's linear layers, one at a time; see `CausalLM.quantize`. */
export async function quantizeLayers(
  model: LayeredModel,
  options: QuantizationOptions,
  watch: LayerWatch = {},
): Promise<void> {
  const {skipModules, quantization} = settingsOf(options);
  assertUnmerged(model, 'quantize');
  for await (const layer of watched([...quantizable(model.layers, skipModules)], watch)) {
    const quantized = layer.weight.isAllocated
      ? await QuantizedDense.fromDense(layer, quantization)
      : QuantizedDense.like(layer, quantization);
    replaceLayer(model, layer, withTrainedBias(quantized, layer));
    layer.disposeWeights();
  }
}

/** Returns a layer whose bias trains if that of the layer it replaces does. */
function withTrainedBias<T extends TransposedDense>(
  layer: T,
  {trainsBiasAlone, trainable}: TransposedDense,
): T {
  if (trainsBiasAlone) Object.assign(layer, {trainsBiasAlone, trainable});
  return layer;
}

/** Turns quantized layers back into plain ones, in the dtype they had before. */
export function dequantizeLayers(model: LayeredModel): void {
  assertUnmerged(model, 'dequantize');
  for (const layer of [...quantizedLayers(model)]) {
    replaceLayer(model, layer, withTrainedBias(layer.dequantize(layer.weight.sourceDtype), layer));
    layer.disposeWeights();
  }
}

/** Yields the quantized linear layers of a model, with or without adapters. */
export function* quantizedLayers({layers}: {layers: tf.layers.Layer[]}): Generator<QuantizedDense> {
  for (const layer of walk(layers)) if (layer instanceof QuantizedDense) yield layer;
}

function settingsOf({skipModules = ['lm_head'], ...quantization}: QuantizationOptions) {
  return {skipModules, quantization};
}

function assertUnmerged({layers, replication}: LayeredModel, what: string): void {
  if (replication) {
    throw new TfjsLoraError(
      'UNSUPPORTED',
      `${what}: expected layers with weights of their own, got replicated ones. Call it before the adapter with ` +
        'layerReplication is added, or load the base quantized.',
    );
  }
  for (const layer of walk(layers)) {
    if (!(layer instanceof AdaptedLayer && layer.isMerged)) continue;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `${what} layer ${layer.name}: expected an unmerged adapter, got a merged one. ` +
        'Call unmergeLoRA() or fuseLoRA() first.',
    );
  }
}
