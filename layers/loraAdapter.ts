import * as tf from '@tensorflow/tfjs';
import {TfjsLoraError} from '../quant/errors.ts';
import {assertKnownOptions, type OptionNames} from '../quant/knownOptions.ts';
import {Parameter} from './parameter.ts';

/** How LoRA's A is drawn: PEFT's default (Kaiming uniform, ±1/√inputDim) or the paper's normal(0, 1/rank). */
export type LoRAInit = 'kaiming' | 'gaussian';

export interface LoRAAdapterArgs {
  /** Rank of the update. */
  rank: number;
  /** Numerator of the scale. Default `2 · rank`. */
  alpha?: number;
  /** Probability of dropping an input of the low-rank path in training. Default 0. */
  dropout?: number;
  /** Scale by `alpha / √rank` instead of `alpha / rank` (Kalajdzievski 2023). Default false. */
  useRsLoRA?: boolean;
  /** Learn the magnitude of each weight row apart from its direction (DoRA, Liu et al. 2024). Default false. */
  useDoRA?: boolean;
  /** Default `kaiming`. B starts at zero either way. */
  init?: LoRAInit;
  /** Train A alone, as MiCA does with a B of its own. Default false. */
  freezeB?: boolean;
  /** Seed of A's draw. Default: unseeded. */
  seed?: number;
}

/** What {@link LoRAAdapter} takes. */
export const ADAPTER_OPTIONS = {
  rank: true,
  alpha: true,
  dropout: true,
  useRsLoRA: true,
  useDoRA: true,
  init: true,
  freezeB: true,
  seed: true,
} satisfies OptionNames<LoRAAdapterArgs>;

/** One low-rank update of one linear layer: `scaling · B · A`, and DoRA's magnitudes. */
export class LoRAAdapter {
  readonly rank: number;
  readonly alpha: number;
  readonly dropout: number;
  readonly useRsLoRA: boolean;
  readonly useDoRA: boolean;
  readonly init: LoRAInit;
  readonly freezeB: boolean;
  readonly loraA: Parameter;
  readonly loraB: Parameter;
  readonly magnitude?: Parameter;
  /** Strengthens or weakens the update. Default 1. */
  weight = 1;
  private trains = true;
  private isHeld = false;

  /**
   * @param where name of the layer, for weights and messages
   * @param shape `[units, inputDim]` of the layer's weight
   * @param rowNorms `‖W‖` per output row, for DoRA's first magnitudes `[units]`
   */
  constructor(
    readonly name: string,
    where: string,
    [units, inputDim]: [number, number],
    args: LoRAAdapterArgs,
    rowNorms: () => tf.Tensor,
  ) {
    assertKnownOptions(`adapter "${name}" of ${where}`, args, ADAPTER_OPTIONS);
    const {rank, alpha = 2 * rank, dropout = 0, init = 'kaiming', seed} = args;
    assertAdapterArgs(args, where, [units, inputDim]);
    this.rank = rank;
    this.alpha = alpha;
    this.dropout = dropout;
    this.init = init;
    this.freezeB = args.freezeB ?? false;
    this.useRsLoRA = args.useRsLoRA ?? false;
    this.useDoRA = args.useDoRA ?? false;
    const suffix = name === 'default' ? '' : `.${name}`;
    this.loraA = new Parameter({
      name: `${where}.lora_A${suffix}`,
      shape: [rank, inputDim],
      initialize: () => drawA(init, rank, inputDim, seed),
    });
    this.loraB = new Parameter({
      name: `${where}.lora_B${suffix}`,
      shape: [units, rank],
      trainable: !this.freezeB,
      initialize: () => tf.zeros([units, rank]),
    });
    if (!this.useDoRA) return;
    this.magnitude = new Parameter({
      name: `${where}.lora_magnitude_vector${suffix}`,
      shape: [units],
      initialize: rowNorms,
    });
  }

  /** Factor on `B · A`. */
  get scaling(): number {
    return (this.weight * this.alpha) / (this.useRsLoRA ? Math.sqrt(this.rank) : this.rank);
  }

  /** The weights by their name in a PEFT file, after the layer's name. */
  get parameters(): Map<string, Parameter> {
    const named: [string, Parameter][] = [
      ['lora_A.weight', this.loraA],
      ['lora_B.weight', this.loraB],
    ];
    if (this.magnitude) named.push(['lora_magnitude_vector', this.magnitude]);
    return new Map(named);
  }

  /** Whether its weights train, those but that are frozen for themselves: unless it rests, or is held. */
  get trainable(): boolean {
    return this.trains && !this.isHeld;
  }

  set trainable(trainable: boolean) {
    this.trains = trainable;
    this.holdParameters();
  }

  /** Whether it would train if its layer did. */
  get isTrainableAlone(): boolean {
    return this.trains;
  }

  /** Frozen with its layer; let go, it is as it was. */
  set held(held: boolean) {
    this.isHeld = held;
    this.holdParameters();
  }

  private holdParameters(): void {
    for (const parameter of this.parameters.values()) parameter.held = !this.trainable;
  }

  dispose(): void {
    for (const parameter of this.parameters.values()) parameter.dispose();
  }
}

/**
 * Checks an adapter's settings against the weight `[units, inputDim]` of the layer it is for.
 *
 * @param where name of the layer
 * @throws TfjsLoraError `INVALID_ARGUMENT`
 */
export function assertAdapterArgs(
  {rank, alpha = 2 * rank, dropout = 0, init = 'kaiming'}: LoRAAdapterArgs,
  where: string,
  [units, inputDim]: number[],
): void {
  const most = Math.min(units, inputDim);
  const wrong = (what: string, expected: string, got: unknown) =>
    new TfjsLoraError('INVALID_ARGUMENT', `LoRA ${what} for ${where}: expected ${expected}, got ${got}`);
  if (!(Number.isInteger(rank) && rank > 0 && rank <= most))
    throw wrong('rank', `an integer from 1 to ${most} (its weight is [${units}, ${inputDim}])`, rank);
  if (!(dropout >= 0 && dropout < 1)) throw wrong('dropout', '0 ≤ p < 1', dropout);
  if (!Number.isFinite(alpha)) throw wrong('alpha', 'a number', alpha);
  if (init !== 'kaiming' && init !== 'gaussian') throw wrong('init', 'kaiming or gaussian', init);
}

function drawA(init: LoRAInit, rank: number, inputDim: number, seed?: number): tf.Tensor {
  if (init === 'gaussian') return tf.randomNormal([rank, inputDim], 0, 1 / rank, 'float32', seed);
  const bound = 1 / Math.sqrt(inputDim);
  return tf.randomUniform([rank, inputDim], -bound, bound, 'float32', seed);
}
