import * as tf from '@tensorflow/tfjs';

/** Results of one run of a block, in the order they were made in. */
interface Run {
  kept: tf.Tensor[][];
  /** The next to be given again; undefined while they are being made. */
  next?: number;
}

let current: Run | undefined;

/**
 * The outputs of an op that a checkpointed block keeps although it is run again in backward, since making them anew costs far
 * more than the memory they take. Elsewhere simply what `run` gives.
 */
export function keptResults(run: () => tf.Tensor[]): tf.Tensor[] {
  if (!current) return run();
  if (current.next !== undefined) return current.kept[current.next++].map((tensor) => tensor.clone());
  const outputs = run();
  current.kept.push(outputs.map((tensor) => tf.keep(tensor.clone())));
  return outputs;
}

/**
 * Whether a checkpointed block is being run again in backward. Its value is not read then, only what backward of its ops needs:
 * an op whose result goes nowhere else may leave it out.
 */
export const isRecomputing = (): boolean => current?.next !== undefined;

/** Runs a block that fills `kept`; the caller disposes what it then holds. */
export function keepResults<T>(kept: tf.Tensor[][], block: () => T): T {
  return within({kept}, block);
}

/** Runs a block again that filled `kept`. */
export function replayResults<T>(kept: tf.Tensor[][], block: () => T): T {
  return within({kept, next: 0}, block);
}

function within<T>(run: Run, block: () => T): T {
  const outer = current;
  current = run;
  try {
    return block();
  } finally {
    current = outer;
  }
}
