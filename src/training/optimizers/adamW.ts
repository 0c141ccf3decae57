import * as tf from '@tensorflow/tfjs';
import {type AdamWSettings, adamWUpdate} from '../../../layers/ops/adamWUpdate.ts';
import {adamWUpdates, adamWUpdatesAtOnce} from '../../../layers/ops/adamWUpdates.ts';
import {optimizerUpdates, optimizerUpdatesAtOnce} from '../../../layers/ops/optimizerUpdates.ts';
import {assertKnownArgs, type OptionNames} from '../../../quant/knownOptions.ts';
import {
  DECOUPLED_DECAY_OPTIONS,
  type DecoupledDecayArgs,
  DecoupledDecayOptimizer,
} from './decoupledDecayOptimizer.ts';
import type {VariableUpdate} from './namedStateOptimizer.ts';
import type {StateStore} from './stateStore.ts';

/**
 * Settings of {@link AdamW}. Defaults: `learningRate` 1e-3, as in PyTorch and Keras (LoRA is commonly trained at 1e-4
 * to 2e-4); `beta1` 0.9, the decay of the gradient's running mean; `beta2` 0.999, the decay of its square's;
 * `weightDecay` 0.01.
 */
export interface AdamWArgs extends DecoupledDecayArgs {
  /** Number added to the corrected root. Default 1e-8. */
  epsilon?: number;
}

/**
 * AdamW with PyTorch's semantics (`torch.optim.AdamW`): epsilon outside the corrected root, decay decoupled from the
 * gradient. Usable in any TensorFlow.js model. Loshchilov & Hutter 2019.
 *
 * State: `mean` and `variance`, twice the size of the trained weights.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for a setting out of range
 * @example
 * ```ts
 * import {AdamW, UNDECAYED_BY_TRANSFORMERS} from 'tfjs-lora';
 *
 * const optimizer = new AdamW({
 *   learningRate: 1e-4,
 *   weightDecay: 0.01,
 *   excludeFromWeightDecay: UNDECAYED_BY_TRANSFORMERS, // biases and norms
 *   loraPlusRatio: 16, // LoRA+: B learns 16 times as fast as A
 * });
 * ```
 */
export class AdamW extends DecoupledDecayOptimizer {
  static className = 'AdamW';
  static readonly optionNames = {
    ...DECOUPLED_DECAY_OPTIONS,
    epsilon: true,
  } satisfies OptionNames<AdamWArgs>;
  protected readonly slots: readonly string[] = ['mean', 'variance'];
  readonly epsilon: number;

  /** @param states store for the state between steps. Default: on the device */
  constructor(args: AdamWArgs = {}, states?: StateStore) {
    assertKnownArgs(new.target, args);
    const {learningRate = 1e-3, beta1 = 0.9, beta2 = 0.999, weightDecay = 0.01, epsilon = 1e-8} = args;
    super({...args, learningRate, beta1, beta2, weightDecay}, states);
    this.epsilon = epsilon;
    this.assertSetting('epsilon', epsilon >= 0 && Number.isFinite(epsilon), 'a number from 0', epsilon);
  }

  protected override update(
    name: string,
    value: tf.Variable,
    gradient: tf.Tensor,
    [mean, variance]: tf.Tensor[],
    step: number,
  ): [tf.Tensor, ...tf.Tensor[]] {
    const settings = {...this.settingsOf(name, value, step), overwrite: true};
    return adamWUpdate(value, gradient, mean, variance, settings);
  }

  protected override get updatesAtOnce(): number {
    const isOverridden = this.update !== AdamW.prototype.update; // by a subclass
    return isOverridden ? 1 : Math.max(adamWUpdatesAtOnce(), optimizerUpdatesAtOnce());
  }

  protected override get takesFactor(): boolean {
    return this.constructor === AdamW; // a subclass may compute updates without the factor
  }

  protected override updateAlike(updates: VariableUpdate[], step: number): [tf.Tensor, ...tf.Tensor[]][] {
    const {name, value} = updates[0];
    const settings = this.settingsOf(name, value, step);
    if (optimizerUpdatesAtOnce() > 1)
      return optimizerUpdates(updates, {rule: 'AdamW', settings}, this.clipping);
    const tensors = updates.map(({value, gradient, state: [mean, variance]}) => {
      return {value, gradient, mean, variance};
    });
    return adamWUpdates(tensors, {...settings, overwrite: true}, this.factor);
  }

  /** Returns the settings of one variable's update at this step. */
  protected settingsOf(name: string, variable: tf.Variable, step: number): AdamWSettings {
    const {beta1, beta2, epsilon} = this;
    return {...this.ratesOf(name, variable), beta1, beta2, epsilon, step};
  }

  override getConfig(): tf.serialization.ConfigDict {
    return {...super.getConfig(), epsilon: this.epsilon};
  }
}
tf.serialization.registerClass(AdamW);
