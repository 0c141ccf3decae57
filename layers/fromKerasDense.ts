import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import {TransposedDense, type TransposedDenseArgs} from './transposedDense.ts';

/**
 * Copies a Keras layer, whose weight `[inputDim, units]` is the transpose of ours.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for another class of layer, or one without weights yet
 */
export function fromKerasDense(layer: tf.layers.Layer): TransposedDense {
  const {units, useBias, activation} = layer.getConfig() as unknown as TransposedDenseArgs;
  if (layer.getClassName() !== 'Dense' || !layer.built) {
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `LoRADense.fromDense ${layer.name}: expected a built Dense layer, got ${layer.built ? '' : 'unbuilt '}${layer.getClassName()}`,
    );
  }
  const [kernel, bias] = layer.getWeights() as [tf.Tensor2D, tf.Tensor1D];
  const dense = new TransposedDense({units, useBias, activation, name: layer.name});
  dense.build([null, kernel.shape[0]]);
  tf.tidy(() => {
    dense.weight.write(kernel.transpose());
    if (bias) dense.bias?.write(bias.clone());
  });
  return dense;
}
