import * as tf from '@tensorflow/tfjs';
import {
  type DecoupledDecayArgs,
  DecoupledDecayOptimizer,
  registerOptimizer,
  type StateStore,
} from 'tfjs-lora/optimizers';

/** Settings of {@link Tiger}. Defaults: `learningRate` 1e-4, `beta1` 0.965, the decay of the momentum, `weightDecay` 0. */
export type TigerArgs = Omit<DecoupledDecayArgs, 'beta2'>;

/**
 * Tiger: a step by the sign of the momentum, with decoupled weight decay, as Lion with `beta1` = `beta2`.
 * Su 2023, https://github.com/bojone/tiger.
 *
 * State: `momentum`, the size of the trained weights.
 */
export class Tiger extends DecoupledDecayOptimizer {
  static className = 'Tiger';
  protected readonly slots = ['momentum'];

  constructor(args: TigerArgs = {}, states?: StateStore) {
    const {learningRate = 1e-4, beta1 = 0.965, weightDecay = 0} = args;
    super({...args, learningRate, beta1, beta2: beta1, weightDecay}, states);
  }

  protected override update(
    name: string,
    value: tf.Variable,
    gradient: tf.Tensor,
    [momentum]: tf.Tensor[],
  ): [tf.Tensor, tf.Tensor] {
    const {learningRate, weightDecay} = this.ratesOf(name, value);
    const next = tf.add(tf.mul(momentum, this.beta1), tf.mul(gradient, 1 - this.beta1));
    const kept = tf.mul(value, 1 - learningRate * weightDecay);
    return [tf.sub(kept, tf.mul(tf.sign(next), learningRate)), next];
  }
}
tf.serialization.registerClass(Tiger);
// A recipe also gives adam_beta2 and adam_epsilon, which Tiger does not have, and its adam_beta1 is AdamW's.
registerOptimizer(
  'tiger',
  ({beta1: _beta1, beta2: _beta2, epsilon: _epsilon, deviceBudgetBytes: _budget, ...args}) => new Tiger(args),
);
