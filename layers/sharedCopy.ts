import {ModuleLayer} from './moduleLayer.ts';

/**
 * Returns a copy of a built layer with the same weights, without a copy of these, and copies of its sub-layers. Each may
 * get other layers around or in place of its sub-layers.
 *
 * @param rename returns the name of a layer's copy
 */
export function sharedCopy<T extends ModuleLayer>(layer: T, rename: (name: string) => string): T {
  const copies = layer.sublayers.map(([key, sublayer]) => [
    key,
    sublayer instanceof ModuleLayer ? sharedCopy(sublayer, rename) : sublayer,
  ]);
  return Object.assign(Object.create(Object.getPrototypeOf(layer)), layer, Object.fromEntries(copies), {
    name: rename(layer.name),
    parameters: new Map(layer.parameters),
  });
}
