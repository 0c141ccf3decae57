import type * as tf from '@tensorflow/tfjs';

/** One tensor of an optimizer's state of one variable. */
export interface StateSlot {
  name: string;
  shape: number[];
  dtype: 'float32' | 'int32';
}

/** A slot's values in host memory. */
export type StateValues = Float32Array | Int32Array;

/** An optimizer's state of one variable, wherever it lies. */
export interface VariableState {
  readonly slots: readonly StateSlot[];
  /** The state on the device, in the order of {@link slots}; it stays the state's. */
  tensors(): tf.Tensor[];
  /** Takes over the next state. */
  replace(next: tf.Tensor[]): void;
  /** Sends it where it lies between steps; resolves when it is there. */
  leave(): Promise<void>;
  /** One slot's values. */
  read(slot: number): Promise<StateValues>;
  dispose(): void;
}

/** Where an optimizer's state lies between steps. */
export interface StateStore {
  /** Whether states are on the device for their own update only. */
  readonly isPaged: boolean;
  /** @param values in the order of the slots, default zeros */
  create(slots: StateSlot[], values?: StateValues[]): VariableState;
  /**
   * Calls `update` with the index of each state in turn, while that one is on the device. Each item of the result is a
   * point where a caller that can wait should call it and await: until then memory on the device may not be free.
   *
   * @throws TfjsLoraError before the first update, when a state cannot be brought there
   */
  visit(states: VariableState[], update: (index: number) => void): Iterable<() => Promise<unknown>>;
  /** The store's settings, for an optimizer's config. */
  getConfig(): tf.serialization.ConfigDict;
}

/** float32 and int32 alike. */
const BYTES_PER_ELEMENT = 4;

/** What some slots take. */
export function bytesOfSlots(slots: readonly StateSlot[]): number {
  return BYTES_PER_ELEMENT * slots.reduce((sum, slot) => sum + sizeOfSlot(slot), 0);
}

export function sizeOfSlot({shape}: StateSlot): number {
  return shape.reduce((size, length) => size * length, 1);
}
