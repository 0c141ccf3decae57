import * as tf from '@tensorflow/tfjs';

/** The commands of ops that ran once, to be run again on what their tensors hold by then. */
export interface Replay {
  /** Whether everything the commands read and write is still theirs; if not, they must not run. */
  readonly isCurrent: boolean;
  /**
   * Runs them again. What counts positions, such as `decodeAttention`'s `past`, has grown by one with each run.
   *
   * @param changes before they run: `copies` of one tensor into another, then `writes` of new values, all of equal sizes
   */
  run(changes: {
    copies?: [from: tf.Tensor, to: tf.Tensor][];
    writes?: [to: tf.Tensor, values: tf.TypedArray][];
  }): void;
  /** Gives back the memory between the ops. */
  dispose(): void;
}

/** Runs ops and keeps their commands; undefined, after having run them, where they cannot be kept. */
export type Recorder = (inputs: tf.Tensor[], run: () => void) => Replay | undefined;

/** By backend, where one can. */
export const recorders = new WeakMap<object, Recorder>();

/** Whether the active backend can keep commands. */
export function canRecord(): boolean {
  return recorders.has(tf.backend());
}

/**
 * Runs ops, and keeps their commands for {@link Replay.run}: what the host did to make them (shapes, checks, layers) is done
 * once. Only for ops of the same shapes each time, whose every input is on the device before; what `run` makes and keeps is
 * overwritten by each run.
 *
 * @param inputs tensors that change between runs
 * @returns undefined where the backend or one of the ops cannot; `run` has run then too
 */
export function recordReplay(inputs: tf.Tensor[], run: () => void): Replay | undefined {
  const recorder = recorders.get(tf.backend());
  if (recorder) return recorder(inputs, run);
  run();
  return undefined;
}
