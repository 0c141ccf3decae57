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
 * Returns a function from a weight's name to its key in a file. Adapters' keys are as PEFT writes them, with the
 * adapter's name only when several train together; other names do not change.
 */
export function fileKeys(adapters: AdapterSet): (name: string) => string {
  const showsAdapter = adapters.names.length > 1 && adapters.active.length > 1;
  const keys = new Map<string, string>();
  for (const [layerName, layer] of adapters.layers()) {
    for (const adapter of layer.adapters.values()) {
      for (const key of adapter.parameters.keys()) {
        const placed = adapter.placedKey(key);
        keys.set(`${layerName}.${placed}`, `${PEFT_PREFIX}${layerName}.${showsAdapter ? placed : key}`);
      }
    }
  }
  return (name) => keys.get(name) ?? name;
}
