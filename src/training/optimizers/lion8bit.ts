import * as tf from '@tensorflow/tfjs';
import {lion8bitUpdate, lion8bitUpdateOp} from '../../../layers/ops/lion8bitUpdate.ts';
import {optimizerUpdates, optimizerUpdatesAtOnce} from '../../../layers/ops/optimizerUpdates.ts';
import type {OptionNames} from '../../../quant/knownOptions.ts';
import {
  assert8bitUpdate,
  MIN_8BIT_OPTIONS,
  type Min8bitSizeArgs,
  names8bit,
  resolveMin8bitSize,
  slots8bit,
} from './blockwise8bitState.ts';
import {Lion, type LionArgs} from './lion.ts';
import type {VariableUpdate} from './namedStateOptimizer.ts';
import type {StateSlot, StateStore} from './stateStore.ts';

export interface Lion8bitArgs extends LionArgs, Min8bitSizeArgs {}

const STATES = ['momentum'];

/**
 * {@link Lion} with its momentum in 8 bits, as bitsandbytes' `Lion8bit`; see {@link AdamW8bit}.
 *
 * State: `momentum.codes` and `momentum.absmax`, a quarter of the size of the trained weights.
 *
 * @throws TfjsLoraError `INVALID_ARGUMENT` for a setting out of range
 */
export class Lion8bit extends Lion {
  static override className = 'Lion8bit';
  static override readonly optionNames = {
    ...Lion.optionNames,
    ...MIN_8BIT_OPTIONS,
  } satisfies OptionNames<Lion8bitArgs>;
  protected override readonly slots: readonly string[] = [...STATES, ...names8bit(STATES)];
  readonly min8bitSize: number;

  constructor(args: Lion8bitArgs = {}, states?: StateStore) {
    super(args, states);
    this.min8bitSize = resolveMin8bitSize(args, this.getClassName());
  }

  protected override slotsOf(shape: number[]): StateSlot[] {
    if (tf.util.sizeFromShape(shape) < this.min8bitSize) {
      return STATES.map((name) => ({name, shape, dtype: 'float32'}));
    }
    assert8bitUpdate(lion8bitUpdateOp);
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
    const [codes, absmax] = state;
    const [next, momentum] = lion8bitUpdate(value, gradient, {codes, absmax}, this.settingsOf(name, value));
    return [next, momentum.codes, momentum.absmax];
  }

  protected override get updatesAtOnce(): number {
    const isOverridden = this.update !== Lion8bit.prototype.update; // by a subclass
    return isOverridden ? 1 : optimizerUpdatesAtOnce();
  }

  protected override updateAlike(updates: VariableUpdate[], step: number): [tf.Tensor, ...tf.Tensor[]][] {
    if (updates[0].state.length === STATES.length) return super.updateAlike(updates, step);
    const {name, value} = updates[0];
    return optimizerUpdates(
      updates,
      {rule: 'Lion8bit', settings: this.settingsOf(name, value)},
      this.clipping,
    );
  }

  override getConfig(): tf.serialization.ConfigDict {
    return {...super.getConfig(), min8bitSize: this.min8bitSize};
  }
}
tf.serialization.registerClass(Lion8bit);
