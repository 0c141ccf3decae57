import type * as tf from '@tensorflow/tfjs';

/** One tensor of an optimizer's state of one variable. */
export interface StateSlot {
  name: string;
  shape: number[];
  dtype: 'float32' | 'int32';
}

/** A slot's values in host memory. */
export type StateValues = Float32Array | Int32Array;

/** An optimizer's state of one variable, on the device or in host memory. */
export interface VariableState {
  readonly slots: readonly StateSlot[];
  /** Returns the state on the device, in the order of {@link slots}; the tensors belong to the state. */
  tensors(): tf.Tensor[];
  /** Replaces the state by the next one, which it then owns. */
  replace(next: tf.Tensor[]): void;
  /** Moves the state to its place between steps; resolves when it is there. */
  leave(): Promise<void>;
  /** Reads one slot's values. */
  read(slot: number): Promise<StateValues>;
  dispose(): void;
}

/** The place of an optimizer's state between steps. */
export interface StateStore {
  /** Whether states are on the device only for their own update. */
  readonly isPaged: boolean;
  /**
   * Makes the state of a variable.
   *
   * @param values values in the order of the slots. Default: zeros
   */
  create(slots: StateSlot[], values?: StateValues[]): VariableState;
  /**
   * Calls `update` with the index of each state in turn, while that state is on the device. Each item of the result is
   * a point where a caller that can wait should call it and await; until then memory on the device may not be free.
   *
   * @throws TfjsLoraError before the first update, when a state cannot be brought to the device
   */
  visit(states: VariableState[], update: (index: number) => void): Iterable<() => Promise<unknown>>;
  /** Returns the store's settings, for an optimizer's config. */
  getConfig(): tf.serialization.ConfigDict;
}

/** Size of both float32 and int32. */
const BYTES_PER_ELEMENT = 4;

/** Returns the bytes that slots take. */
export function bytesOfSlots(slots: readonly StateSlot[]): number {
  return BYTES_PER_ELEMENT * slots.reduce((sum, slot) => sum + sizeOfSlot(slot), 0);
}

export function sizeOfSlot({shape}: StateSlot): number {
  return shape.reduce((size, length) => size * length, 1);
}
