import {AdaptedLayer} from '../../layers/adaptedLayer.ts';
import {ModuleLayer, walk} from '../../layers/moduleLayer.ts';
import type {Parameter} from '../../layers/parameter.ts';
import type {AdapterSet} from './adapterSet.ts';
import {PEFT_PREFIX} from './peftPrefix.ts';

/** PEFT's suffix of an adapted layer's name, for the layer's own weight. */
export const UNDER_ADAPTER = '.base_layer';

/** Returns the weights of one adapter by their key in a PEFT file. */
export function adapterParameters(adapters: AdapterSet, adapterName: string): Map<string, Parameter> {
  const parameters = new Map<string, Parameter>();
  for (const [layerName, layer] of adapters.layers()) {
    const adapter = layer.adapters.get(adapterName);
    for (const [key, parameter] of adapter?.parameters ?? []) {
      parameters.set(`${PEFT_PREFIX}${layerName}.${key}`, parameter);
    }
  }
  return parameters;
}

/** Returns the biases of the base that an adapter trains, by their keys in its file. */
export function biasParameters(adapters: AdapterSet, adapterName: string): Map<string, Parameter> {
  const adapted = adapters.lowRank();
  return new Map(
    adapters.biasLayers(adapterName).map((layer) => {
      const place = adapted.has(layer.name) ? UNDER_ADAPTER : '';
      return [`${PEFT_PREFIX}${layer.name}${place}.bias`, layer.bias!];
    }),
  );
}

/**
 * Yields the weights that train, by their key in a file. Adapters' keys are as PEFT writes them, with the adapter's name
 * only when several train together; others have their names.
 */
export function* trainedParameters(adapters: AdapterSet): Generator<[key: string, Parameter]> {
  const showsAdapter = adapters.names.length > 1 && adapters.active.length > 1;
  for (const layer of walk(adapters.model.layers)) {
    if (!(layer instanceof ModuleLayer)) continue;
    const keys = layer instanceof AdaptedLayer ? fileKeys(layer, showsAdapter) : undefined;
    for (const [name, parameter] of layer.parameters)
      if (parameter.trainable) yield [keys?.get(name) ?? `${layer.name}.${name}`, parameter];
  }
}

/** Returns the keys of a layer's adapters in a file, by the names of their weights in the layer. */
function fileKeys({name, adapters}: AdaptedLayer, showsAdapter: boolean): Map<string, string> {
  const keys = new Map<string, string>();
  for (const adapter of adapters.values()) {
    for (const key of adapter.parameters.keys()) {
      const placed = adapter.placedKey(key);
      keys.set(placed, `${PEFT_PREFIX}${name}.${showsAdapter ? placed : key}`);
    }
  }
  return keys;
}
