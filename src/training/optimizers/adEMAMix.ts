import * as tf from '@tensorflow/tfjs';
import {assertKnownArgs, type OptionNames} from '../../../quant/knownOptions.ts';
import {
  DECOUPLED_DECAY_OPTIONS,
  type DecoupledDecayArgs,
  DecoupledDecayOptimizer,
} from './decoupledDecayOptimizer.ts';
import type {StateStore} from './stateStore.ts';

/** Settings of {@link AdEMAMix}. Defaults: those of bitsandbytes, `learningRate` 1e-3, `weightDecay` 0.01. */
export interface AdEMAMixArgs extends DecoupledDecayArgs {
  /** Decay of the slow running mean of the gradient. Default 0.9999. */
  beta3?: number;
  /** Weight of the slow running mean. Default 5. */
  alpha?: number;
  /** Number added to the corrected root. Default 1e-8. */
  epsilon?: number;
}

/**
 * AdEMAMix as in bitsandbytes: AdamW with a second, slow running mean of the gradient. Usable in any TensorFlow.js model.
 * Pagliardini et al. 2024.
 *
 * State: `fast`, `slow` and `variance`, three times the size of the trained weights.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for a setting out of range
 */
export class AdEMAMix extends DecoupledDecayOptimizer {
  static className = 'AdEMAMix';
  static readonly optionNames = {
    ...DECOUPLED_DECAY_OPTIONS,
    beta3: true,
    alpha: true,
    epsilon: true,
  } satisfies OptionNames<AdEMAMixArgs>;
  protected readonly slots: readonly string[] = ['fast', 'slow', 'variance'];
  readonly beta3: number;
  readonly alpha: number;
  readonly epsilon: number;

  /** @param states store for the state between steps. Default: on the device */
  constructor(args: AdEMAMixArgs = {}, states?: StateStore) {
    assertKnownArgs(new.target, args);
    const {learningRate = 1e-3, beta1 = 0.9, beta2 = 0.999, weightDecay = 0.01} = args;
    const {beta3 = 0.9999, alpha = 5, epsilon = 1e-8} = args;
    super({...args, learningRate, beta1, beta2, weightDecay}, states);
    this.beta3 = beta3;
    this.alpha = alpha;
    this.epsilon = epsilon;
    this.assertSetting('beta3', beta3 >= 0 && beta3 < 1, '0 ≤ β < 1', beta3);
    for (const [key, got] of Object.entries({alpha, epsilon}))
      this.assertSetting(key, got >= 0 && Number.isFinite(got), 'a number from 0', got);
  }

  protected override update(
    name: string,
    value: tf.Variable,
    gradient: tf.Tensor,
    [fast, slow, variance]: tf.Tensor[],
    step: number,
  ): [tf.Tensor, ...tf.Tensor[]] {
    const {beta1, beta2, beta3, alpha, epsilon} = this;
    const {learningRate} = this.ratesOf(name, value);
    const decayed = this.decayed(name, value);
    const mean = (before: tf.Tensor, now: tf.Tensor, beta: number) =>
      tf.add(tf.mul(before, beta), tf.mul(now, 1 - beta));
    const next = [
      mean(fast, gradient, beta1),
      mean(slow, gradient, beta3),
      mean(variance, tf.square(gradient), beta2),
    ];
    const root = tf.add(tf.div(tf.sqrt(next[2]), Math.sqrt(1 - beta2 ** step)), epsilon);
    const mixed = tf.add(tf.div(next[0], 1 - beta1 ** step), tf.mul(next[1], alpha));
    return [tf.sub(decayed, tf.mul(tf.div(mixed, root), learningRate)), ...next];
  }

  override getConfig(): tf.serialization.ConfigDict {
    const {beta3, alpha, epsilon} = this;
    return {...super.getConfig(), beta3, alpha, epsilon};
  }
}
tf.serialization.registerClass(AdEMAMix);
