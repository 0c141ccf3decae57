import type * as tf from '@tensorflow/tfjs';

/** The learning rate that TensorFlow.js's optimizers have, though their types hide it. */
interface RatedOptimizer {
  learningRate?: unknown;
  setLearningRate?(learningRate: number): void;
}

/** Returns an optimizer's learning rate, if it has one that can be changed. */
export function learningRateOf(optimizer: tf.Optimizer): number | undefined {
  const {learningRate} = optimizer as RatedOptimizer;
  return typeof learningRate === 'number' ? learningRate : undefined;
}

/** Runs `fn` with another learning rate until it returns or, if it returns a promise, until that settles. */
export function withLearningRate<T>(optimizer: tf.Optimizer, learningRate: number, fn: () => T): T {
  const before = learningRateOf(optimizer);
  if (before === undefined) return fn();
  const restore = () => setLearningRate(optimizer, before);
  setLearningRate(optimizer, learningRate);
  let result: T | undefined;
  try {
    result = fn();
  } finally {
    if (!(result instanceof Promise)) restore();
  }
  return result instanceof Promise ? (result.finally(restore) as T) : result;
}

function setLearningRate(optimizer: tf.Optimizer & RatedOptimizer, learningRate: number): void {
  if (optimizer.setLearningRate)
    optimizer.setLearningRate(learningRate); // SGD keeps its rate in a tensor
  else optimizer.learningRate = learningRate;
}
