import * as tf from '@tensorflow/tfjs';
import {adamWUpdate} from '../../layers/ops/adamWUpdate.ts';
import {TfjsLoraError} from '../../quant/errors.ts';
import {NamedStateOptimizer} from './namedStateOptimizer.ts';

export interface AdamWArgs {
  /** Default 1e-3, as in PyTorch and Keras; LoRA is commonly trained at 1e-4 to 2e-4. */
  learningRate?: number;
  /** Decay of the gradient's running mean. Default 0.9. */
  beta1?: number;
  /** Decay of the squared gradient's running mean. Default 0.999. */
  beta2?: number;
  /** Default 1e-8. */
  epsilon?: number;
  /** Decoupled weight decay. Default 0.01. */
  weightDecay?: number;
  /** Variables that are not decayed: part of a variable's name, or an expression found in it. Default none. */
  excludeFromWeightDecay?: (string | RegExp)[];
}

/**
 * AdamW with PyTorch's semantics (`torch.optim.AdamW`): epsilon outside the corrected root, decay decoupled from the
 * gradient. Usable in any TensorFlow.js model. Loshchilov & Hutter 2019.
 *
 * State: `mean` and `variance`, twice the size of the trained weights.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for a setting out of range
 */
export class AdamW extends NamedStateOptimizer {
  static className = 'AdamW';
  protected readonly slots = ['mean', 'variance'];
  learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  readonly excludeFromWeightDecay: (string | RegExp)[];

  constructor(args: AdamWArgs = {}) {
    super();
    this.learningRate = args.learningRate ?? 1e-3;
    this.beta1 = args.beta1 ?? 0.9;
    this.beta2 = args.beta2 ?? 0.999;
    this.epsilon = args.epsilon ?? 1e-8;
    this.weightDecay = args.weightDecay ?? 0.01;
    this.excludeFromWeightDecay = args.excludeFromWeightDecay ?? [];
    for (const key of ['learningRate', 'epsilon', 'weightDecay'] as const) {
      if (this[key] >= 0 && Number.isFinite(this[key])) continue;
      throw new TfjsLoraError('INVALID_ARGUMENT', `AdamW ${key}: expected a number from 0, got ${this[key]}`);
    }
    for (const key of ['beta1', 'beta2'] as const) {
      if (this[key] >= 0 && this[key] < 1) continue;
      throw new TfjsLoraError('INVALID_ARGUMENT', `AdamW ${key}: expected 0 ≤ β < 1, got ${this[key]}`);
    }
  }

  protected override update(
    name: string,
    value: tf.Variable,
    gradient: tf.Tensor,
    [mean, variance]: tf.Variable[],
    step: number,
  ): [tf.Tensor, tf.Tensor, tf.Tensor] {
    const {learningRate, beta1, beta2, epsilon} = this;
    const excluded = this.excludeFromWeightDecay.some((part) =>
      typeof part === 'string' ? name.includes(part) : name.search(part) >= 0,
    );
    const weightDecay = excluded ? 0 : this.weightDecay;
    return adamWUpdate(value, gradient, mean, variance, {
      learningRate,
      beta1,
      beta2,
      epsilon,
      weightDecay,
      step,
    });
  }

  override getConfig(): tf.serialization.ConfigDict {
    const {learningRate, beta1, beta2, epsilon, weightDecay, excludeFromWeightDecay} = this;
    const excluded = excludeFromWeightDecay.map((part) =>
      typeof part === 'string' ? part : {source: part.source, flags: part.flags},
    );
    return {learningRate, beta1, beta2, epsilon, weightDecay, excludeFromWeightDecay: excluded};
  }

  static override fromConfig<T extends tf.serialization.Serializable>(
    cls: tf.serialization.SerializableConstructor<T>,
    config: tf.serialization.ConfigDict,
  ): T {
    const excluded = (config.excludeFromWeightDecay ?? []) as unknown as (
      | string
      | {source: string; flags: string}
    )[];
    const patterns = excluded.map((part) =>
      typeof part === 'string' ? part : new RegExp(part.source, part.flags),
    );
    return new cls({...config, excludeFromWeightDecay: patterns});
  }
}
tf.serialization.registerClass(AdamW);
