import * as tf from '@tensorflow/tfjs';
import {graphNodes, ownedModelsOf, setUserCountOf, userCountOf} from '../../layers/ops/tfjsInternals.ts';

type Layer = tf.layers.Layer;

/**
 * Returns the layer that replaces another, or the same one to keep it.
 *
 * @param prefix names of the nested models around the layer, each followed by a dot
 */
export type Substitute = (layer: Layer, prefix: string) => Layer;

/**
 * Makes a model of the same graph in which some layers are replaced. All other layers are shared with the given model,
 * which does not change; nested models are rebuilt only if a layer in them changes. A layer's weights are freed with
 * the last model that is disposed.
 *
 * @param substitute function that is called once for each layer, at any depth
 */
export function rebuildModel(model: tf.LayersModel, substitute: Substitute): tf.LayersModel {
  const found = new Map<Layer, Layer>();
  const find = (inner: tf.LayersModel, prefix: string): void => {
    for (const {outboundLayer: layer} of layerCalls(inner)) {
      if (layer instanceof tf.LayersModel) find(layer, `${prefix}${layer.name}.`);
      else if (!found.has(layer)) found.set(layer, substitute(layer, prefix));
    }
  };
  find(model, ''); // before any layer is wired, because substitute may throw
  return rebuilt(model, found, true);
}

/** The calls of a model's layers, without its inputs. */
const layerCalls = (model: tf.LayersModel) =>
  graphNodes(model).filter(({inboundLayers}) => inboundLayers.length > 0);

function rebuilt(model: tf.LayersModel, found: Map<Layer, Layer>, always = false): tf.LayersModel {
  const calls = layerCalls(model);
  for (const {outboundLayer: layer} of calls) {
    if (layer instanceof tf.LayersModel && !found.has(layer)) found.set(layer, rebuilt(layer, found));
  }
  const layers = new Map(calls.map(({outboundLayer: layer}) => [layer, found.get(layer) as Layer]));
  if (!always && [...layers].every(([layer, by]) => layer === by)) return model;
  const users = new Map([...layers.values()].map((layer) => [layer, userCountOf(layer)]));
  const tensors = new Map<tf.SymbolicTensor, tf.SymbolicTensor>();
  const nowOf = (tensor: tf.SymbolicTensor) => tensors.get(tensor) ?? tensor;
  for (const {outboundLayer, inputTensors, outputTensors, callArgs} of calls) {
    const by = layers.get(outboundLayer) as Layer;
    const inputs = inputTensors.map(nowOf);
    if (by === outboundLayer && inputs.every((input, i) => input === inputTensors[i])) continue;
    const {initialState: _state, constants: _constants, ...given} = callArgs ?? {}; // a recurrent layer's are inputs too
    const outputs = [by.apply(inputs.length === 1 ? inputs[0] : inputs, given)].flat();
    for (const [i, output] of outputs.entries()) tensors.set(outputTensors[i], output as tf.SymbolicTensor);
  }
  const result = tf.model({inputs: model.inputs, outputs: model.outputs.map(nowOf), name: model.name});
  for (const [layer, count] of users) setUserCountOf(layer, count + 1); // TensorFlow.js counts calls, frees per model
  const owned = ownedModelsOf(result); // freed with the model, even if others use them
  owned.splice(0, owned.length, ...owned.filter((inner) => !layers.has(inner)));
  return result;
}
