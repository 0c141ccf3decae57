import * as tf from '@tensorflow/tfjs';
import {
  AdamW,
  AdamW8bit,
  Lion,
  Lion8bit,
  PagedAdamW,
  PagedAdamW8bit,
  PagedLion,
  PagedLion8bit,
} from '../../../../src/index.ts';
import type {NamedStateOptimizer} from '../../../../src/training/optimizers/index.ts';

export type OptimizerClass = (new (
  args?: OptimizerArgs,
) => NamedStateOptimizer) & {readonly optionNames: object};

interface OptimizerArgs {
  learningRate?: number;
  min8bitSize?: number;
  deviceBudgetBytes?: number;
  weightDecay?: number;
  excludeFromWeightDecay?: (string | RegExp)[];
  loraPlusRatio?: number;
}

/** Makes an optimizer with those of the settings that it has. */
export function makeOptimizer(Optimizer: OptimizerClass, args: OptimizerArgs): NamedStateOptimizer {
  const known = Object.entries(args).filter(([name]) => Object.hasOwn(Optimizer.optionNames, name));
  return new Optimizer(Object.fromEntries(known));
}

export const EVERY_OPTIMIZER: Record<string, OptimizerClass> = {
  AdamW,
  AdamW8bit,
  Lion,
  Lion8bit,
  PagedAdamW,
  PagedAdamW8bit,
  PagedLion,
  PagedLion8bit,
};

/** The paged optimizers, each beside the one it must equal. */
export const PAGED: [string, paged: OptimizerClass, unpaged: OptimizerClass][] = [
  ['PagedAdamW', PagedAdamW, AdamW],
  ['PagedAdamW8bit', PagedAdamW8bit, AdamW8bit],
  ['PagedLion', PagedLion, Lion],
  ['PagedLion8bit', PagedLion8bit, Lion8bit],
];

/** With it, the larger of {@link makeWeights} have 8-bit state and the smaller 32-bit. */
export const MIN_8BIT_SIZE = 300;
const SHAPES: Record<string, number[]> = {
  'w/first': [20, 33],
  'w/second': [300],
  'w/third': [7, 11],
  'w/last': [40, 10],
};

/** Makes variables whose values depend only on this code. */
export function makeWeights(): tf.Variable[] {
  return Object.entries(SHAPES).map(([name, shape], i) => tf.tidy(() => draw(shape, i).variable(true, name)));
}

/** Returns their gradients at a step. */
export function gradientsAt(step: number): tf.NamedTensorMap {
  return Object.fromEntries(
    Object.entries(SHAPES).map(([name, shape], i) => [name, draw(shape, 100 * (step + 1) + i)]),
  );
}

/** Runs steps `from` to `to`. */
export function runSteps(optimizer: tf.Optimizer, from: number, to: number): void {
  for (let step = from; step < to; step++) tf.tidy(() => optimizer.applyGradients(gradientsAt(step)));
}

function draw(shape: number[], seed: number): tf.Tensor {
  const values = Float32Array.from(
    {length: tf.util.sizeFromShape(shape)},
    (_, i) => Math.sin(i * (seed + 1.7)) ** 3,
  );
  return tf.tensor(values, shape);
}

/** Returns the values of tensors. */
export async function valuesOf(tensors: tf.Tensor[]): Promise<number[][]> {
  return Promise.all(tensors.map(async (tensor) => Array.from(await tensor.data())));
}
