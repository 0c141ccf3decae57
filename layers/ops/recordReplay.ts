import type * as tf from '@tensorflow/tfjs';
import {backendTraits, type Replay} from './backendTraits.ts';

/** Whether the active backend can keep the commands of ops. */
export function canRecord(): boolean {
  return backendTraits().record !== undefined;
}

/**
 * Runs ops and keeps their commands for {@link Replay.run}, so that the host's work for them (shapes, checks, layers)
 * is done once. The ops must have the same shapes each time, and all their inputs must be on the device before; each
 * run overwrites what `run` makes and keeps.
 *
 * @param inputs tensors that change between runs
 * @returns undefined if the backend or one of the ops cannot be recorded; `run` has run even then
 */
export function recordReplay(inputs: tf.Tensor[], run: () => void): Replay | undefined {
  const {record} = backendTraits();
  if (record) return record(inputs, run);
  run();
  return undefined;
}
