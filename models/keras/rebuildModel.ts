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
  const once = (layer: Layer, prefix: string): Layer => {
    const isModel = layer instanceof tf.LayersModel;
    const by =
      found.get(layer) ??
      (isModel ? rebuilt(layer, once, `${prefix}${layer.name}.`) : substitute(layer, prefix));
    found.set(layer, by);
    return by;
  };
  return rebuilt(model, once, '');
}

function rebuilt(model: tf.LayersModel, substitute: Substitute, prefix: string): tf.LayersModel {
  const calls = graphNodes(model).filter(({inboundLayers}) => inboundLayers.length > 0); // the others are inputs
  const layers = new Map(calls.map(({outboundLayer}) => [outboundLayer, substitute(outboundLayer, prefix)]));
  if (prefix !== '' && [...layers].every(([layer, by]) => layer === by)) return model;
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
