import * as tf from '@tensorflow/tfjs';

/*
 * What this library uses of TensorFlow.js beyond its published types: private members and state, each typed only here,
 * so that a new version is checked against this file. What kernels use of a backend is in its `…Backend.ts`.
 */

/** A node of the tape. */
interface TapeNode {
  saved?: tf.Tensor[];
  gradient?: (dys: tf.Tensor[]) => Record<string, () => tf.Tensor>;
}

/** The engine's state of the gradients that are being computed. */
export interface EngineState {
  activeTape?: TapeNode[];
  gradientDepth: number;
  kernelDepth: number;
}

/** Returns the engine's own state, not a copy: writing to it takes effect. */
export const engineState = (): EngineState => tf.engine().state as unknown as EngineState;

/** The members of a weight, all writable. */
interface LayerVariableMembers {
  val: tf.Variable;
  shape: tf.Shape;
  name: string;
  originalName: string;
  trainable_: boolean;
}

export const membersOf = (weight: tf.LayerVariable): LayerVariableMembers =>
  weight as unknown as LayerVariableMembers;

/** Returns the hook that `setCallHook` set, if any. */
export const callHookOf = (layer: tf.layers.Layer): unknown =>
  (layer as unknown as {_callHook?: unknown})._callHook;

/** What a layer keeps of its users, and how it frees its weights. */
interface LayerMembers {
  _refCount: number | null;
  disposeWeights(): number;
}

const layerMembers = (layer: tf.layers.Layer): LayerMembers => layer as unknown as LayerMembers;

/** The number of models, or layers, that use a layer: its weights are freed with the last of them. */
export const userCountOf = (layer: tf.layers.Layer): number => layerMembers(layer)._refCount ?? 0;

export function setUserCountOf(layer: tf.layers.Layer, count: number): void {
  layerMembers(layer)._refCount = count;
}

/**
 * Frees a layer's weights unless something else still uses the layer.
 *
 * @returns the number of weights freed
 */
export function releaseWeightsOf(layer: tf.layers.Layer): number {
  const others = userCountOf(layer) - 1;
  if (others > 0) {
    setUserCountOf(layer, others);
    return 0;
  }
  return layerMembers(layer).disposeWeights();
}

/** How a model is wired. */
export interface GraphNode {
  outboundLayer: tf.layers.Layer;
  inboundLayers: tf.layers.Layer[];
  inputTensors: tf.SymbolicTensor[];
  outputTensors: tf.SymbolicTensor[];
  callArgs?: Parameters<tf.layers.Layer['apply']>[1] & {initialState?: unknown; constants?: unknown};
}

interface ContainerMembers {
  nodesByDepth: Record<string, GraphNode[]>;
  internalContainerRefs: tf.layers.Layer[];
}

const containerMembers = (model: tf.LayersModel): ContainerMembers => model as unknown as ContainerMembers;

/** The calls of layers that a model consists of, each behind those whose outputs it takes. */
export function graphNodes(model: tf.LayersModel): GraphNode[] {
  if (!model.built) model.build([]); // a sequential one wires itself on first use
  const {nodesByDepth} = containerMembers(model);
  const depths = Object.keys(nodesByDepth).map(Number);
  return depths.sort((a, b) => b - a).flatMap((depth) => nodesByDepth[depth]);
}

/** The models inside a model that it frees however often they are used elsewhere. */
export const ownedModelsOf = (model: tf.LayersModel): tf.layers.Layer[] =>
  containerMembers(model).internalContainerRefs;

/** Types an object as a layer's config, which TensorFlow.js declares without interfaces and null. */
export const asConfig = (values: object): tf.serialization.ConfigDict =>
  values as unknown as tf.serialization.ConfigDict;
