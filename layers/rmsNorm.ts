import * as tf from '@tensorflow/tfjs';
import type {OptionNames} from '../quant/knownOptions.ts';
import {LAYER_OPTIONS, type LayerArgs, ModuleLayer, onlyInput, onlyShape} from './moduleLayer.ts';
import {rmsNorm} from './ops/rmsNorm.ts';
import type {Parameter} from './parameter.ts';

export interface RMSNormArgs extends LayerArgs {
  /** Added to the mean square. Default 1e-5. */
  epsilon?: number;
}

/** Keras-style layer around {@link rmsNorm}: input and output `[..., C]`. Weight: `weight` `[C]`, ones. */
export class RMSNorm extends ModuleLayer {
  static className = 'RMSNorm';
  static readonly optionNames = {
    ...LAYER_OPTIONS,
    epsilon: true,
  } satisfies OptionNames<RMSNormArgs>;
  readonly epsilon: number;
  weight!: Parameter;

  constructor(args: RMSNormArgs = {}) {
    super(args);
    this.epsilon = args.epsilon ?? 1e-5;
  }

  override build(inputShape: tf.Shape | tf.Shape[]): void {
    const size = onlyShape(inputShape).at(-1) as number;
    this.weight = this.addParameter('weight', [size], {
      initialize: () => tf.ones([size]),
    });
    this.built = true;
  }

  override computeOutputShape(inputShape: tf.Shape | tf.Shape[]): tf.Shape {
    return onlyShape(inputShape);
  }

  override call(inputs: tf.Tensor | tf.Tensor[]): tf.Tensor {
    return tf.tidy(() => rmsNorm(onlyInput(inputs), this.weight.read(), this.epsilon));
  }

  override getConfig(): tf.serialization.ConfigDict {
    return {...super.getConfig(), epsilon: this.epsilon};
  }
}
tf.serialization.registerClass(RMSNorm);
