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

/**
 * Frees a layer's weights, even if something else still uses the layer.
 *
 * @returns the number of weights freed
 */
export const disposeWeightsOf = (layer: tf.layers.Layer): number =>
  (layer as unknown as {disposeWeights(): number}).disposeWeights();

/** Types an object as a layer's config, which TensorFlow.js declares without interfaces and null. */
export const asConfig = (values: object): tf.serialization.ConfigDict =>
  values as unknown as tf.serialization.ConfigDict;
