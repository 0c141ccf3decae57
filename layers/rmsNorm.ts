import * as tf from '@tensorflow/tfjs';
import type {OptionNames} from '../quant/knownOptions.ts';
import {LAYER_OPTIONS, type LayerArgs, ModuleLayer, onlyInput, onlyShape} from './moduleLayer.ts';
import {rmsNorm} from './ops/rmsNorm.ts';
import type {Parameter} from './parameter.ts';

export interface RMSNormArgs extends LayerArgs {
  /** Added to the mean square. Default 1e-5. */
  epsilon?: number;
  /** Added to the weight, which is then zero at first; Gemma's is 1. Default 0. */
  offset?: number;
}

/** Keras-style layer around {@link rmsNorm}: input and output `[..., C]`. Weight: `weight` `[C]`, `1 − offset`. */
export class RMSNorm extends ModuleLayer {
  static className = 'RMSNorm';
  static readonly optionNames = {
    ...LAYER_OPTIONS,
    epsilon: true,
    offset: true,
  } satisfies OptionNames<RMSNormArgs>;
  readonly epsilon: number;
  readonly offset: number;
  weight!: Parameter;

  constructor(args: RMSNormArgs = {}) {
    super(args);
    this.epsilon = args.epsilon ?? 1e-5;
    this.offset = args.offset ?? 0;
  }

  override build(inputShape: tf.Shape | tf.Shape[]): void {
    const size = onlyShape(inputShape).at(-1) as number;
    this.weight = this.addParameter('weight', [size], {
      initialize: () => tf.fill([size], 1 - this.offset),
    });
    this.built = true;
  }

  override computeOutputShape(inputShape: tf.Shape | tf.Shape[]): tf.Shape {
    return onlyShape(inputShape);
  }

  override call(inputs: tf.Tensor | tf.Tensor[]): tf.Tensor {
    return tf.tidy(() => rmsNorm(onlyInput(inputs), this.weight.read(), this.epsilon, this.offset));
  }

  /** Applies the layer to `x`, which is not needed again: the result may take its memory. */
  over(x: tf.Tensor): tf.Tensor {
    return tf.tidy(() => rmsNorm(x, this.weight.read(), this.epsilon, this.offset, true));
  }

  override getConfig(): tf.serialization.ConfigDict {
    return {...super.getConfig(), epsilon: this.epsilon, offset: this.offset};
  }
}
tf.serialization.registerClass(RMSNorm);
