import * as tf from '@tensorflow/tfjs';
import {releaseWeightsOf, setUserCountOf, userCountOf} from '../../layers/ops/tfjsInternals.ts';

type Layer = tf.layers.Layer;
type Config = tf.serialization.ConfigDict;

// TensorFlow.js does not export its class.
const [BatchNormalization] = tf.serialization.SerializationMap.getMap().classNameMap[
  'BatchNormalization'
] as unknown as [(new (config: object) => Layer) & Pick<typeof tf.layers.Layer, 'fromConfig'>];

/**
 * Batch normalization that uses its moving averages in training too and does not update them, as in Keras when a layer
 * is frozen. TensorFlow.js itself updates the averages of a frozen layer.
 */
export class FrozenBatchNorm extends BatchNormalization {
  static className = 'FrozenBatchNorm';
  #source?: Layer;

  /** Makes a frozen layer that shares the weights of a built one. */
  static sharing(layer: Layer): FrozenBatchNorm {
    const frozen = new FrozenBatchNorm(layer.getConfig() as object);
    shareWeights(layer, frozen);
    frozen.#source = layer;
    return frozen;
  }

  /** Returns the plain layer: the one it was made from, or one with its weights. */
  thawed(): Layer {
    if (this.#source) return this.#source;
    const plain = new BatchNormalization(this.getConfig() as object);
    shareWeights(this, plain);
    return plain;
  }

  override call(inputs: tf.Tensor | tf.Tensor[], kwargs: object): tf.Tensor | tf.Tensor[] {
    return super.call(inputs, {...kwargs, training: false});
  }
}
tf.serialization.registerClass(FrozenBatchNorm);

const SHARED = [
  'gamma',
  'beta',
  'movingMean',
  'movingVariance',
  '_trainableWeights',
  '_nonTrainableWeights',
  'inputSpec',
  'built',
];

function shareWeights(from: Layer, to: Layer): void {
  for (const name of SHARED) Object.assign(to, {[name]: (from as unknown as Config)[name]});
  setUserCountOf(from, userCountOf(from) + 1);
  Object.assign(to, {disposeWeights: () => releaseWeightsOf(from)});
}
