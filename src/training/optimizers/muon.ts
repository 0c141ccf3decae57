import * as tf from '@tensorflow/tfjs';
import {assertKnownArgs, type OptionNames} from '../../../quant/knownOptions.ts';
import {
  DECOUPLED_DECAY_OPTIONS,
  type DecoupledDecayArgs,
  DecoupledDecayOptimizer,
} from './decoupledDecayOptimizer.ts';
import type {StateSlot, StateStore} from './stateStore.ts';

/**
 * Settings of {@link Muon}. Defaults: `learningRate` 1e-3, `weightDecay` 0.1; of the weights that are not orthogonalized,
 * `beta1` 0.9 and `beta2` 0.95.
 */
export interface MuonArgs extends DecoupledDecayArgs {
  /** Decay of the momentum of matrices. Default 0.95. */
  momentum?: number;
  /** Number added to the root, for the other weights. Default 1e-8. */
  epsilon?: number;
}

/** Iterations that orthogonalize an update, and the coefficients of their polynomial. */
const ITERATIONS = 5;
const [A, B, C] = [3.4445, -4.775, 2.0315];

/**
 * Muon as LLaMA-Factory's `use_muon`: the Nesterov momentum of a matrix is orthogonalized by Newton–Schulz iterations,
 * and its learning rate multiplied by `0.2·√max(rows, columns)`. Embeddings, the head and weights of other ranks get an
 * AdamW. Usable in any TensorFlow.js model. Jordan et al. 2024, Liu et al. 2025. The iterations are in float32; in
 * LLaMA-Factory they are in bfloat16.
 *
 * State: `momentum`, the size of the matrices; `mean` and `variance` of the other weights.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for a setting out of range
 */
export class Muon extends DecoupledDecayOptimizer {
  static className = 'Muon';
  static readonly optionNames = {
    ...DECOUPLED_DECAY_OPTIONS,
    momentum: true,
    epsilon: true,
  } satisfies OptionNames<MuonArgs>;
  protected readonly slots: readonly string[] = ['momentum', 'mean', 'variance'];
  readonly momentum: number;
  readonly epsilon: number;

  /** @param states store for the state between steps. Default: on the device */
  constructor(args: MuonArgs = {}, states?: StateStore) {
    assertKnownArgs(new.target, args);
    const {learningRate = 1e-3, beta1 = 0.9, beta2 = 0.95, weightDecay = 0.1} = args;
    const {momentum = 0.95, epsilon = 1e-8} = args;
    super({...args, learningRate, beta1, beta2, weightDecay}, states);
    this.momentum = momentum;
    this.epsilon = epsilon;
    this.assertSetting('momentum', momentum >= 0 && momentum < 1, 'a number from 0 and below 1', momentum);
    this.assertSetting('epsilon', epsilon >= 0 && Number.isFinite(epsilon), 'a number from 0', epsilon);
  }

  protected override slotsOf(shape: number[], name = ''): StateSlot[] {
    const names = isOrthogonalized(shape, name) ? ['momentum'] : ['mean', 'variance'];
    return names.map((slot) => ({name: slot, shape, dtype: 'float32'}));
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
    if (!isOrthogonalized(value.shape, name)) {
      const {beta1, beta2, epsilon} = this;
      const mean = tf.add(tf.mul(state[0], beta1), tf.mul(gradient, 1 - beta1));
      const variance = tf.add(tf.mul(state[1], beta2), tf.mul(tf.square(gradient), 1 - beta2));
      const rate = (learningRate * Math.sqrt(1 - beta2 ** step)) / (1 - beta1 ** step);
      const direction = tf.div(mean, tf.add(tf.sqrt(variance), epsilon));
      return [tf.sub(decayed, tf.mul(direction, rate)), mean, variance];
    }
    const momentum = tf.add(tf.mul(state[0], this.momentum), gradient);
    const direction = orthogonalized(tf.add(gradient, tf.mul(momentum, this.momentum)) as tf.Tensor2D);
    const rate = learningRate * 0.2 * Math.sqrt(Math.max(...value.shape));
    return [tf.sub(decayed, tf.mul(direction, rate)), momentum];
  }

  override getConfig(): tf.serialization.ConfigDict {
    const {momentum, epsilon} = this;
    return {...super.getConfig(), momentum, epsilon};
  }
}
tf.serialization.registerClass(Muon);

const isOrthogonalized = (shape: number[], name: string): boolean =>
  shape.length === 2 && !/embed|lm_head/.test(name);

/** Moves the singular values of a matrix to about 1. */
function orthogonalized(matrix: tf.Tensor2D): tf.Tensor {
  const isTall = matrix.shape[0] > matrix.shape[1];
  let x = isTall ? tf.transpose(matrix) : matrix;
  x = tf.div(x, tf.add(tf.norm(x), 1e-7));
  for (let i = 0; i < ITERATIONS; i++) {
    const product = tf.matMul(x, x, false, true);
    const polynomial = tf.add(tf.mul(product, B), tf.mul(tf.matMul(product, product), C));
    x = tf.add(tf.mul(x, A), tf.matMul(polynomial as tf.Tensor2D, x));
  }
  return isTall ? tf.transpose(x) : x;
}
