import * as tf from '@tensorflow/tfjs';
import {customGradient} from './customGradient.ts';
import {isSpent} from './freeSpent.ts';
import {isRecording} from './isRecording.ts';
import {keptResults} from './keptResults.ts';
import type {AnyOp, DifferentiableOp, Op} from './op.ts';

/** The tensors that an op passes to its kernel. */
type Given<Inputs> = {[Name in keyof Inputs]: tf.Tensor};

/** Whether the active backend has a kernel for the op. */
export function hasKernel({kernelName}: AnyOp): boolean {
  return tf.getKernel(kernelName, tf.getBackend()) != null;
}

/** Runs an op's kernel, which the active backend must have. */
export function runKernel<Inputs extends object, Attributes extends object, Output>(
  {kernelName}: Op<Inputs, Attributes, Output>,
  inputs: Given<Inputs>,
  attributes: Attributes,
): Output {
  return tf
    .engine()
    .runKernel(kernelName, inputs as tf.NamedTensorMap, attributes as tf.NamedAttrMap) as Output;
}

/**
 * Runs an op through its kernel if the active backend has one, otherwise through the composed reference. A kernel that
 * must be differentiated goes through `dispatchWithGradient`.
 *
 * @param inputs the tensors the kernel reads, by name
 * @param attributes plain values the kernel reads
 * @param composed computes the same result in plain TensorFlow.js ops; runs and differentiates on every backend
 */
export function dispatch<Inputs extends object, Attributes extends object, Output>(
  op: Op<Inputs, Attributes, Output>,
  inputs: Given<Inputs>,
  attributes: Attributes,
  composed: () => Output & tf.TensorContainer,
): Output {
  return hasKernel(op) ? runKernel(op, inputs, attributes) : tf.tidy(composed);
}

/**
 * {@link dispatch} for an op with a gradient: through its gradient kernel if the active backend has both kernels,
 * otherwise through the composed reference.
 *
 * The forward kernel returns the value, followed by whatever else backward needs. The gradient kernel gets `dy`, those
 * inputs and the value `y` that the op's {@link DifferentiableOp.rule rule} names, and the rest as `extra0`, `extra1` …
 */
export function dispatchWithGradient<
  Inputs extends object,
  Attributes extends object,
  Value extends tf.Tensor,
  Read extends string,
>(
  op: DifferentiableOp<Inputs, Attributes, Value, Read>,
  inputs: Given<Inputs>,
  attributes: Attributes,
  composed: () => Value,
): Value {
  const {gradient, rule} = op;
  if (!hasKernel(op)) return tf.tidy(composed);
  if (isRecording() && !hasKernel(gradient)) return tf.tidy(composed);
  const given = inputs as tf.NamedTensorMap;
  const read: string[] = rule.read?.filter((name) => name === 'y' || name in given) ?? Object.keys(given);
  return customGradient(
    rule.of.map((name) => given[name]),
    () => {
      const make = () => [runKernel(op, inputs, attributes)].flat() as tf.Tensor[];
      const outputs = rule.isKept && hasKernel(gradient) ? keptResults(make) : make(); // otherwise backward is composed
      const [y, ...extras] = outputs;
      const named: tf.NamedTensorMap = {...given, y};
      return {value: y as Value, saved: [...read.map((name) => named[name]), ...extras]};
    },
    (dy, saved) => {
      const named = saved.map((tensor, i) => [read[i] ?? `extra${i - read.length}`, tensor]);
      const given = {dy, ...Object.fromEntries(named)};
      return [runKernel(gradient, given, {...attributes, isSpent: isSpent(dy)})].flat();
    },
  );
}
