import * as tf from '@tensorflow/tfjs';
import {expectClose} from '../expectClose.ts';

/** Makes a tfjs model of one layer; the layer's args hold `inputShape`. */
export function alone(layer: tf.layers.Layer): tf.Sequential {
  return tf.sequential({layers: [layer]});
}

/** Expects a model that is written to JSON, read back and given the same weights to compute the same. */
export async function expectJsonRoundTrip(model: tf.Sequential, input: tf.Tensor): Promise<tf.LayersModel> {
  const json = JSON.parse(model.toJSON() as string);
  const copy = await tf.models.modelFromJSON({modelTopology: json} as never);
  expect(copy.layers.map((layer) => layer.getClassName())).toEqual(
    model.layers.map((layer) => layer.getClassName()),
  );
  expect(copy.layers.map(givenConfig)).toEqual(model.layers.map(givenConfig));
  copy.setWeights(model.getWeights());
  const [expected, got] = [model.predict(input), copy.predict(input)] as tf.Tensor[];
  expectClose(got, expected, {relative: 0});
  tf.dispose([expected, got]);
  return copy;
}

/**
 * Trains a model for some steps towards a target and expects a falling loss, the named weights to have moved, and no
 * others.
 *
 * @param moving end of the names of the weights that train
 */
export async function expectLearns(
  model: tf.LayersModel,
  input: tf.Tensor,
  target: tf.Tensor,
  moving: RegExp,
  {epochs = 20, learningRate = 0.05}: {epochs?: number; learningRate?: number} = {},
): Promise<void> {
  model.compile({optimizer: tf.train.adam(learningRate), loss: 'meanSquaredError'});
  const before = model.weights.map((weight) => weight.read().dataSync().slice());
  const {history} = await model.fit(input, target, {epochs, verbose: 0});
  const losses = history.loss as number[];
  expect(losses.at(-1)).toBeLessThan(0.7 * losses[0]);
  const moved = model.weights
    .filter((weight, i) => !tf.util.arraysEqual([...weight.read().dataSync()], [...before[i]]))
    .map((weight) => weight.originalName);
  const expected = model.weights.map((weight) => weight.originalName).filter((name) => moving.test(name));
  expect(moved.sort()).toEqual(expected.sort());
  expect(moved.length).toBeGreaterThan(0);
}

/** Expects that making, running and disposing of a model leaves nothing behind. */
export function expectDisposesAll(make: () => tf.LayersModel, input: tf.Tensor): void {
  const before = tf.memory();
  const model = make();
  (model.predict(input) as tf.Tensor).dispose();
  model.dispose();
  const after = tf.memory();
  expect(after.numTensors).toBe(before.numTensors);
  expect(after.numBytes).toBe(before.numBytes);
}

/**
 * Returns a layer's config without its empty settings, because Keras's own initializers come back with null for
 * undefined.
 */
export function givenConfig(layer: tf.layers.Layer): unknown {
  return JSON.parse(JSON.stringify(layer.getConfig(), (_, value) => value ?? undefined));
}
