import type * as tf from '@tensorflow/tfjs';

/** What TensorFlow.js's optimizers have, though their types hide it. */
interface RatedOptimizer {
  learningRate?: unknown;
  setLearningRate?(learningRate: number): void;
}

/** An optimizer's learning rate, if it has one that can be changed. */
export function learningRateOf(optimizer: tf.Optimizer): number | undefined {
  const {learningRate} = optimizer as RatedOptimizer;
  return typeof learningRate === 'number' ? learningRate : undefined;
}

/** Runs `fn` with another learning rate, until it is done. */
export async function withLearningRate(
  optimizer: tf.Optimizer,
  learningRate: number,
  fn: () => void | Promise<void>,
): Promise<void> {
  const before = learningRateOf(optimizer);
  if (before === undefined) {
    await fn();
    return;
  }
  setLearningRate(optimizer, learningRate);
  try {
    await fn();
  } finally {
    setLearningRate(optimizer, before);
  }
}

function setLearningRate(optimizer: tf.Optimizer & RatedOptimizer, learningRate: number): void {
  if (optimizer.setLearningRate)
    optimizer.setLearningRate(learningRate); // SGD keeps a tensor of it
  else optimizer.learningRate = learningRate;
}
