import * as tf from '@tensorflow/tfjs';
import {assertKnownArgs, type OptionNames} from '../../../quant/knownOptions.ts';
import {
  DECOUPLED_DECAY_OPTIONS,
  type DecoupledDecayArgs,
  DecoupledDecayOptimizer,
} from './decoupledDecayOptimizer.ts';
import type {StateSlot, StateStore} from './stateStore.ts';

/** Settings of {@link Adafactor}. Defaults: `learningRate` 1e-3, `weightDecay` 0. */
export interface AdafactorArgs extends Omit<DecoupledDecayArgs, 'beta1' | 'beta2'> {
  /** Largest root mean square of an update before the learning rate. Default 1. */
  clipThreshold?: number;
  /** Exponent, below 0, of the step in the decay of the squared gradient's mean, `1 − step^decayRate`. Default −0.8. */
  decayRate?: number;
}

/** Added to the squared gradient, as in transformers. */
const EPSILON = 1e-30;

const {beta1, beta2, ...SHARED_OPTIONS} = DECOUPLED_DECAY_OPTIONS;

/**
 * Adafactor as in transformers with `scale_parameter=False, relative_step=False`, which its Trainer sets: the mean of the
 * squared gradient of a matrix is kept as the means of its rows and columns. Usable in any TensorFlow.js model. Shazeer &
 * Stern 2018.
 *
 * State: a number for each row and each column of a matrix; of other weights, `square`, their size.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for a setting out of range
 */
export class Adafactor extends DecoupledDecayOptimizer {
  static className = 'Adafactor';
  static readonly optionNames = {
    ...SHARED_OPTIONS,
    clipThreshold: true,
    decayRate: true,
  } satisfies OptionNames<AdafactorArgs>;
  protected readonly slots: readonly string[] = ['rows', 'columns', 'square'];
  readonly clipThreshold: number;
  readonly decayRate: number;

  /** @param states store for the state between steps. Default: on the device */
  constructor(args: AdafactorArgs = {}, states?: StateStore) {
    assertKnownArgs(new.target, args);
    const {learningRate = 1e-3, weightDecay = 0, clipThreshold = 1, decayRate = -0.8} = args;
    super({...args, learningRate, weightDecay}, states);
    this.clipThreshold = clipThreshold;
    this.decayRate = decayRate;
    this.assertSetting('clipThreshold', clipThreshold > 0, 'a number above 0', clipThreshold);
    this.assertSetting('decayRate', decayRate < 0, 'a number below 0', decayRate);
  }

  protected override slotsOf(shape: number[]): StateSlot[] {
    if (shape.length < 2) return [{name: 'square', shape, dtype: 'float32'}];
    return [
      {name: 'rows', shape: shape.slice(0, -1), dtype: 'float32'},
      {name: 'columns', shape: [...shape.slice(0, -2), ...shape.slice(-1)], dtype: 'float32'},
    ];
  }

  protected override update(
    name: string,
    value: tf.Variable,
    gradient: tf.Tensor,
    state: tf.Tensor[],
    step: number,
  ): [tf.Tensor, ...tf.Tensor[]] {
    const {learningRate} = this.ratesOf(name, value);
    const decayed = this.decayed(name, value);
    const decay = 1 - step ** this.decayRate;
    const square = tf.add(tf.square(gradient), EPSILON);
    const averaged = (before: tf.Tensor, now: tf.Tensor) =>
      tf.add(tf.mul(before, decay), tf.mul(now, 1 - decay));
    const next =
      value.rank < 2
        ? [averaged(state[0], square)]
        : [averaged(state[0], tf.mean(square, -1)), averaged(state[1], tf.mean(square, -2))];
    const scaled = tf.mul(value.rank < 2 ? tf.rsqrt(next[0]) : inverseRoot(next[0], next[1]), gradient);
    const rootMeanSquare = tf.sqrt(tf.mean(tf.square(scaled)));
    const clipped = tf.div(scaled, tf.maximum(tf.div(rootMeanSquare, this.clipThreshold), 1));
    return [tf.sub(decayed, tf.mul(clipped, learningRate)), ...next];
  }

  override getConfig(): tf.serialization.ConfigDict {
    const {beta1, beta2, ...config} = super.getConfig();
    return {...config, clipThreshold: this.clipThreshold, decayRate: this.decayRate};
  }
}
tf.serialization.registerClass(Adafactor);

/** Estimates 1/√v of a matrix from the means of its rows and columns. */
function inverseRoot(rows: tf.Tensor, columns: tf.Tensor): tf.Tensor {
  const share = tf.rsqrt(tf.div(rows, tf.mean(rows, -1, true)));
  return tf.mul(tf.expandDims(share, -1), tf.rsqrt(tf.expandDims(columns, -2)));
}
