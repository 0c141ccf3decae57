import * as tf from '@tensorflow/tfjs';
import {type LionSettings, lionUpdate} from '../../../layers/ops/lionUpdate.ts';
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
 * Settings of {@link Lion}. Defaults: `learningRate` 1e-4 (use a third to a tenth of AdamW's); `beta1` 0.9, the
 * momentum's share in the direction; `beta2` 0.99, the momentum's own decay; `weightDecay` 0.
 */
export interface LionArgs extends DecoupledDecayArgs {}

/**
 * Lion as in bitsandbytes: every weight changes by the learning rate, and only the sign of the change is learned.
 * Usable in any TensorFlow.js model. Chen et al. 2023.
 *
 * State: `momentum`, the size of the trained weights.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for a setting out of range
 */
export class Lion extends DecoupledDecayOptimizer {
  static className = 'Lion';
  static readonly optionNames = {
    ...DECOUPLED_DECAY_OPTIONS,
  } satisfies OptionNames<LionArgs>;
  protected readonly slots: readonly string[] = ['momentum'];

  /** @param states store for the state between steps. Default: on the device */
  constructor(args: LionArgs = {}, states?: StateStore) {
    assertKnownArgs(new.target, args);
    const {learningRate = 1e-4, beta1 = 0.9, beta2 = 0.99, weightDecay = 0} = args;
    super({...args, learningRate, beta1, beta2, weightDecay}, states);
  }

  protected override update(
    name: string,
    value: tf.Variable,
    gradient: tf.Tensor,
    [momentum]: tf.Tensor[],
    _step: number,
  ): [tf.Tensor, ...tf.Tensor[]] {
    return lionUpdate(value, gradient, momentum, {...this.settingsOf(name, value), overwrite: true});
  }

  protected override get updatesAtOnce(): number {
    const isOverridden = this.update !== Lion.prototype.update; // by a subclass
    return isOverridden ? 1 : optimizerUpdatesAtOnce();
  }

  protected override get takesFactor(): boolean {
    return this.constructor === Lion; // a subclass may compute updates without the factor
  }

  protected override updateAlike(updates: VariableUpdate[], _step: number): [tf.Tensor, ...tf.Tensor[]][] {
    const {name, value} = updates[0];
    const settings = this.settingsOf(name, value);
    const {clipping, factor} = this;
    if (!factor) return optimizerUpdates(updates, {rule: 'Lion', settings}, clipping);
    return updates.map(({value, gradient, state: [momentum]}) =>
      lionUpdate(value, gradient, momentum, {...settings, overwrite: true}, factor),
    );
  }

  /** Returns the settings of one variable's update. */
  protected settingsOf(name: string, variable: tf.Variable): LionSettings {
    const {beta1, beta2} = this;
    return {...this.ratesOf(name, variable), beta1, beta2};
  }
}
tf.serialization.registerClass(Lion);
