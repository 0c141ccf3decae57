import * as tf from '@tensorflow/tfjs';

/** Results of one run of a block, in the order in which they were made. */
interface Run {
  kept: tf.Tensor[][];
  /** Index of the next result to return again; undefined while the results are being made. */
  next?: number;
}

let current: Run | undefined;

/**
 * Keeps the outputs of an op in a checkpointed block although backward runs the block again, because making them again
 * costs far more than the memory they take. Elsewhere returns just the results of `run`.
 */
export function keptResults(run: () => tf.Tensor[]): tf.Tensor[] {
  if (!current) return run();
  if (current.next !== undefined) return current.kept[current.next++].map((tensor) => tensor.clone());
  const outputs = run();
  current.kept.push(outputs.map((tensor) => tf.keep(tensor.clone())));
  return outputs;
}

/**
 * Whether backward is running a checkpointed block again. Then nothing reads its value, only what backward of its ops
 * needs, so an op whose result nothing else reads may leave it out.
 */
export const isRecomputing = (): boolean => current?.next !== undefined;

/** Runs a block, which fills `kept`; the caller disposes the tensors in it. */
export function keepResults<T>(kept: tf.Tensor[][], block: () => T): T {
  return within({kept}, block);
}

/** Runs again a block that filled `kept`. */
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
