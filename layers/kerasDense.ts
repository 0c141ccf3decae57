import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import {customGradient} from './ops/customGradient.ts';
import type {DenseMatrix} from './ops/storedMatrix.ts';
import {releaseWeightsOf, setUserCountOf, userCountOf} from './ops/tfjsInternals.ts';
import {Parameter} from './parameter.ts';
import {TransposedDense, type TransposedDenseArgs} from './transposedDense.ts';

/**
 * A dense layer whose weight is stored as in `tf.layers.dense`, `[inputDim, units]`. {@link sharing} makes one with the
 * variables of a Keras layer, so that adapters can be added to that layer without copying it.
 *
 * Input `[..., inputDim]` float32, output `[..., units]` float32. Weights: `kernel` `[inputDim, units]`, `bias`
 * `[units]`.
 */
export class KerasDense extends TransposedDense {
  static override className = 'KerasDense';
  static override readonly optionNames = TransposedDense.optionNames;
  declare weight: KernelParameter; // its `kernel`
  #source?: tf.layers.Layer; // private, so that it is no sub-layer

  /**
   * Wraps a built Keras layer. Both have the same variables, which are freed with the later of the two.
   *
   * @param name default the layer's
   * @throws TfjsLoraError `INVALID_ARGUMENT` for another class of layer, or one without weights yet
   */
  static sharing(layer: tf.layers.Layer, name: string = layer.name): KerasDense {
    const {units, useBias, activation} = layer.getConfig() as unknown as TransposedDenseArgs;
    if (layer.getClassName() !== 'Dense' || !layer.built) {
      throw new TfjsLoraError(
        'INVALID_ARGUMENT',
        `layer ${layer.name}: expected a built Dense layer, got ${layer.built ? '' : 'unbuilt '}${layer.getClassName()}`,
      );
    }
    const {kernel, bias} = layer as unknown as {kernel: tf.LayerVariable; bias?: tf.LayerVariable};
    const dense = new KerasDense({units, useBias, activation, name});
    dense.buildSharing(kernel, bias);
    dense.#source = layer;
    return dense;
  }

  private buildSharing(kernel: tf.LayerVariable, bias?: tf.LayerVariable): void {
    const named = (key: string, {shape}: tf.LayerVariable) => ({
      name: `${this.name}.${key}`,
      shape: shape as number[],
    });
    this.weight = this.adopt('kernel', new KernelParameter(named('kernel', kernel)));
    this.weight.share(kernel);
    if (bias) {
      this.bias = this.adopt('bias', new Parameter(named('bias', bias)));
      this.bias.share(bias);
    }
    this.built = true;
  }

  /** Counts this layer as a user of the Keras layer that it shares, until it is disposed. */
  hold(): void {
    if (this.#source) setUserCountOf(this.#source, userCountOf(this.#source) + 1);
  }

  protected override buildWeight([units, inputDim]: [units: number, inputDim: number]): Parameter {
    const initialize = () => this.weightInitializer.apply([units, inputDim], 'float32'); // stored() transposes it
    const args = {name: `${this.name}.kernel`, shape: [inputDim, units], initialize};
    return this.adopt('kernel', new KernelParameter(args));
  }

  override get inputDim(): number {
    return this.weight.logicalShape[0];
  }

  override multiply(x: tf.Tensor2D): tf.Tensor2D {
    const kernel = this.weight.read() as tf.Tensor as tf.Tensor2D; // [inputDim, units]
    if (this.weight.trainable) return tf.matMul(x, kernel);
    return customGradient(
      [x],
      () => ({value: tf.matMul(x, kernel), saved: [kernel]}),
      (dy, [saved]) => [tf.matMul(dy as tf.Tensor2D, saved as tf.Tensor2D, false, true)],
    );
  }

  override disposeWeights(): number {
    return this.#source ? releaseWeightsOf(this.#source) : super.disposeWeights();
  }
}
tf.serialization.registerClass(KerasDense);

/** A weight `[inputDim, units]` that ops take as the matrix `[units, inputDim]`. */
class KernelParameter extends Parameter {
  override stored(value: tf.Tensor): tf.Tensor {
    return tf.transpose(value);
  }

  /** Returns a transposed copy, for ops that need the whole matrix; the caller disposes or tidies it. */
  override matrix(): DenseMatrix {
    const [cols, rows] = this.logicalShape;
    return {tensor: tf.transpose(this.read()), dtype: 'float32', rows, cols};
  }
}
