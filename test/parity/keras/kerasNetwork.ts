import {join, resolve} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {goldenNamed, readGoldens, toTensor} from '../golden.ts';

/** Where make_keras.py writes. */
export const KERAS_FIXTURES = resolve('test/parity/keras/fixtures');

/** The network of network.py with the weights that make_keras.py drew, as Keras's own layers: `[B, 10]` → `[B, 4]`. */
export function kerasNetwork(): tf.LayersModel {
  const network = tf.sequential({
    layers: [
      tf.layers.dense({name: 'fc1', units: 12, activation: 'relu', inputShape: [10]}),
      tf.layers.dense({name: 'fc2', units: 7, activation: 'tanh', useBias: false}),
      tf.layers.dense({name: 'fc3', units: 4}),
    ],
  });
  const weights = readGoldens(join(KERAS_FIXTURES, 'base.safetensors'));
  tf.tidy(() => {
    for (const layer of network.layers) {
      const kernel = tf.transpose(toTensor(goldenNamed(weights, `${layer.name}.weight`)));
      const bias = weights.get(`${layer.name}.bias`);
      layer.setWeights(bias ? [kernel, toTensor(bias)] : [kernel]);
    }
  });
  return network;
}
