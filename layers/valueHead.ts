import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import type {OptionNames} from '../quant/knownOptions.ts';
import {show} from '../quant/show.ts';
import {hashName} from './hashName.ts';
import {LAYER_OPTIONS, type LayerArgs, ModuleLayer, onlyInput, onlyShape} from './moduleLayer.ts';
import type {Parameter} from './parameter.ts';

export interface ValueHeadArgs extends LayerArgs {
  /** Probability of dropping an input in training, 0 ≤ p < 1. Default 0.1, as in TRL. */
  dropout?: number;
  /** Seed for the random initial weights. Default 0. */
  seed?: number;
}

/**
 * Scores hidden states: input `[..., C]` float32, output `[..., 1]`, `dropout(x) · wᵀ + b`. This is the head of reward
 * models and of PPO's values, TRL's `ValueHead`. Adapters and quantization do not apply to it.
 *
 * Weights: `weight` `[1, C]` and `bias` `[1]`, both uniform(−1/√C, 1/√C), as PyTorch's `Linear`.
 */
export class ValueHead extends ModuleLayer {
  static className = 'ValueHead';
  static readonly optionNames = {
    ...LAYER_OPTIONS,
    dropout: true,
    seed: true,
  } satisfies OptionNames<ValueHeadArgs>;
  readonly dropout: number;
  readonly seed: number;
  weight!: Parameter;
  bias!: Parameter;

  /** @throws TfjsLoraError `INVALID_ARGUMENT` for a dropout out of range */
  constructor(args: ValueHeadArgs = {}) {
    super(args);
    this.dropout = args.dropout ?? 0.1;
    this.seed = args.seed ?? 0;
    if (this.dropout >= 0 && this.dropout < 1) return;
    throw new TfjsLoraError(
      'INVALID_ARGUMENT',
      `ValueHead dropout: expected 0 ≤ p < 1, got ${show(args.dropout)}`,
    );
  }

  override build(inputShape: tf.Shape | tf.Shape[]): void {
    const size = onlyShape(inputShape).at(-1) as number;
    const bound = 1 / Math.sqrt(size);
    const draw = (name: string, shape: number[]) =>
      this.addParameter(name, shape, {
        initialize: () => tf.randomUniform(shape, -bound, bound, 'float32', this.seed + hashName(name)),
      });
    this.weight = draw('weight', [1, size]);
    this.bias = draw('bias', [1]);
    this.built = true;
  }

  override computeOutputShape(inputShape: tf.Shape | tf.Shape[]): tf.Shape {
    return [...onlyShape(inputShape).slice(0, -1), 1];
  }

  /** @param kwargs `training` switches dropout on; `seed` makes its mask repeatable */
  override call(
    inputs: tf.Tensor | tf.Tensor[],
    {training = false, seed}: {training?: boolean; seed?: number} = {},
  ): tf.Tensor {
    return tf.tidy(() => {
      const x = onlyInput(inputs); // [..., C]
      const mask = seed === undefined ? undefined : seed + hashName(this.name);
      const kept = training && this.dropout > 0 ? tf.dropout(x, this.dropout, undefined, mask) : x;
      const flat = kept.reshape([-1, this.weight.logicalShape[1]]) as tf.Tensor2D; // [N, C]
      const weight = this.weight.read() as tf.Tensor as tf.Tensor2D;
      const scores = tf.add(tf.matMul(flat, weight, false, true), this.bias.read()); // [N, 1]
      return scores.reshape([...x.shape.slice(0, -1), 1]);
    });
  }

  override getConfig(): tf.serialization.ConfigDict {
    return {...super.getConfig(), dropout: this.dropout, seed: this.seed};
  }
}
tf.serialization.registerClass(ValueHead);
