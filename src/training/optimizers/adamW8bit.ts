import * as tf from '@tensorflow/tfjs';
import {adamW8bitUpdate, adamW8bitUpdateOp} from '../../../layers/ops/adamW8bitUpdate.ts';
import {optimizerUpdates, optimizerUpdatesAtOnce} from '../../../layers/ops/optimizerUpdates.ts';
import type {OptionNames} from '../../../quant/knownOptions.ts';
import {AdamW, type AdamWArgs} from './adamW.ts';
import {
  assert8bitUpdate,
  MIN_8BIT_OPTIONS,
  type Min8bitSizeArgs,
  names8bit,
  resolveMin8bitSize,
  slots8bit,
} from './blockwise8bitState.ts';
import type {VariableUpdate} from './namedStateOptimizer.ts';
import type {StateSlot, StateStore} from './stateStore.ts';

export interface AdamW8bitArgs extends AdamWArgs, Min8bitSizeArgs {}

const STATES = ['mean', 'variance'];

/**
 * {@link AdamW} with its state in 8 bits, block-wise over 256 values, as bitsandbytes' `AdamW8bit`. On `cpu` and
 * `wasm`, its codes are identical to bitsandbytes'. Dettmers et al. 2022.
 *
 * State: `mean` and `variance` as `.codes` and `.absmax`, half the size of the trained weights; small variables have
 * AdamW's state.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for a setting out of range
 */
export class AdamW8bit extends AdamW {
  static override className = 'AdamW8bit';
  static override readonly optionNames = {
    ...AdamW.optionNames,
    ...MIN_8BIT_OPTIONS,
  } satisfies OptionNames<AdamW8bitArgs>;
  protected override readonly slots: readonly string[] = [...STATES, ...names8bit(STATES)];
  readonly min8bitSize: number;

  constructor(args: AdamW8bitArgs = {}, states?: StateStore) {
    super(args, states);
    this.min8bitSize = resolveMin8bitSize(args, this.getClassName());
  }

  protected override slotsOf(shape: number[]): StateSlot[] {
    if (tf.util.sizeFromShape(shape) < this.min8bitSize) {
      return STATES.map((name) => ({name, shape, dtype: 'float32'}));
    }
    assert8bitUpdate(adamW8bitUpdateOp);
    return slots8bit(STATES, shape);
  }

  protected override update(
    name: string,
    value: tf.Variable,
    gradient: tf.Tensor,
    state: tf.Tensor[],
    step: number,
  ): [tf.Tensor, ...tf.Tensor[]] {
    if (state.length === STATES.length) return super.update(name, value, gradient, state, step);
    const [next, mean, variance] = adamW8bitUpdate(
      value,
      gradient,
      {codes: state[0], absmax: state[1]},
      {codes: state[2], absmax: state[3]},
      this.settingsOf(name, value, step),
    );
    return [next, mean.codes, mean.absmax, variance.codes, variance.absmax];
  }

  protected override get updatesAtOnce(): number {
    const isOverridden = this.update !== AdamW8bit.prototype.update; // by a subclass
    return isOverridden ? 1 : optimizerUpdatesAtOnce();
  }

  protected override updateAlike(updates: VariableUpdate[], step: number): [tf.Tensor, ...tf.Tensor[]][] {
    if (updates[0].state.length === STATES.length) return super.updateAlike(updates, step);
    const {name, value} = updates[0];
    return optimizerUpdates(
      updates,
      {rule: 'AdamW8bit', settings: this.settingsOf(name, value, step)},
      this.clipping,
    );
  }

  override getConfig(): tf.serialization.ConfigDict {
    return {...super.getConfig(), min8bitSize: this.min8bitSize};
  }
}
tf.serialization.registerClass(AdamW8bit);
