import type * as tf from '@tensorflow/tfjs';
import {backendTraits, type Replay} from './backendTraits.ts';

/** Whether the active backend can keep commands. */
export function canRecord(): boolean {
  return backendTraits().record !== undefined;
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
  const {record} = backendTraits();
  if (record) return record(inputs, run);
  run();
  return undefined;
}
