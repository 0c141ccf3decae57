import * as tf from '@tensorflow/tfjs';

/*
 * What this library uses of TensorFlow.js beyond its published types: private members and state, each typed here and nowhere
 * else, so that a new version is checked against this file. What kernels use of a backend is in its `…Backend.ts`.
 */

/** A node of the tape. */
interface TapeNode {
  saved?: tf.Tensor[];
  gradient?: (dys: tf.Tensor[]) => Record<string, () => tf.Tensor>;
}

/** What the engine knows of the gradients that are being computed. */
export interface EngineState {
  activeTape?: TapeNode[];
  gradientDepth: number;
  kernelDepth: number;
}

/** The engine's own state: what is written to it counts. */
export const engineState = (): EngineState => tf.engine().state as unknown as EngineState;

/** What a weight is made of, all of it writable. */
interface LayerVariableMembers {
  val: tf.Variable;
  shape: tf.Shape;
  name: string;
  originalName: string;
  trainable_: boolean;
}

export const membersOf = (weight: tf.LayerVariable): LayerVariableMembers =>
  weight as unknown as LayerVariableMembers;

/** The hook that `setCallHook` set, if any. */
export const callHookOf = (layer: tf.layers.Layer): unknown =>
  (layer as unknown as {_callHook?: unknown})._callHook;

/**
 * Frees a layer's weights, whoever else uses the layer.
 *
 * @returns how many there were
 */
export const disposeWeightsOf = (layer: tf.layers.Layer): number =>
  (layer as unknown as {disposeWeights(): number}).disposeWeights();

/** An object as the config of a layer: TensorFlow.js types neither interfaces nor null as one. */
export const asConfig = (values: object): tf.serialization.ConfigDict =>
  values as unknown as tf.serialization.ConfigDict;
