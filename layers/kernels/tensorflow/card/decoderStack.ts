import type * as tf from '@tensorflow/tfjs';
import {decoderStackGradOp, decoderStackOp} from '../../../ops/decoderStack.ts';
import type {GradientCheckpointing} from '../../../ops/gradientCheckpointing.ts';
import type {PreparedStack, ProjectionAttributes, StackAttributes} from '../../../ops/stackBlock.ts';
import {keepOnCard} from '../device/keepOnCard.ts';
import {opsKernel} from '../device/opsKernel.ts';
import type {Ops} from '../device/runOps.ts';
import {DataType, type Handle, type OpAttribute} from '../device/tensorflowBackend.ts';
import {asWords, type CardPlan, planWeight} from './cardWeights.ts';

/** Returns the number of `Checkpointing` in native/cuda/engine.h. */
const numberOf = (checkpointing: GradientCheckpointing): number =>
  checkpointing === 'offload' ? 2 : Number(checkpointing);

/**
 * `DecoderStack` (layers/ops/decoderStack.ts). Second output, if it is recorded: what backward needs, in the engine's
 * own layout.
 */
export const decoderStack = opsKernel(decoderStackOp, (ops, handles, {stack, isRecorded}) => {
  const attributes = [...stackPlan(ops, stack.attributes), ops.boolAttribute('is_recorded', isRecorded)];
  const given = [handles.x, ...stackTables(ops, handles)];
  const [y, saved, onHost] = ops.fused('DecoderStack', given, attributes, 3, stackTensors(ops, stack));
  if (!isRecorded) return [y];
  return [y, stack.attributes.checkpointing === 'offload' ? onHost : saved];
});

/** Gradients of `x`, if it is trained, and of each A and B in turn. */
export const decoderStackGrad = opsKernel(decoderStackGradOp, (ops, handles, {stack, isInputTrained}) => {
  const count = 2 * stack.attributes.blocks.flat().filter(({rank}) => rank > 0).length;
  const attributes = [
    ...stackPlan(ops, stack.attributes),
    ops.boolAttribute('wants_input', isInputTrained),
    ops.intAttribute('M', count),
  ];
  const isOnHost = stack.attributes.checkpointing === 'offload';
  const saved = isOnHost ? [ops.nothing(), handles.saved0] : [handles.saved0, ops.nothing()];
  const given = [handles.dy, ...saved, ...stackTables(ops, handles)];
  const tensors = stackTensors(ops, stack);
  const [dx, ...gradients] = ops.fused('DecoderStackGrad', given, attributes, 1 + count, tensors);
  return isInputTrained ? [dx, ...gradients] : gradients;
});

/** Returns the tensors of a stack as ops of a card take them. */
export function stackTensors(ops: Ops, {tensors}: PreparedStack): Handle[] {
  keepOnCard(ops.backend, tensors);
  return Object.values(tensors).map((tensor) => asWords(ops, ops.borrow(tensor as tf.TensorInfo)));
}

/** The handles of the tensors that all blocks of a stack read. */
type StackTables = Record<'cos' | 'sin', Handle> & {segments?: Handle};

/** Returns tables and segments as ops of a card take them. */
export function stackTables(ops: Ops, {cos, sin, segments}: StackTables): Handle[] {
  return [cos, sin, segments ? ops.cast(segments, DataType.float32) : ops.nothing()];
}

/** Returns the plan of a stack in the order in which `DecoderStackOp` in native/cuda/ops.cc reads it. */
export function stackPlan(ops: Ops, attrs: StackAttributes): OpAttribute[] {
  return planAttributes(ops, planOfStack(attrs));
}

export function planOfStack(attrs: StackAttributes): CardPlan {
  const {heads, keyValueHeads, headDim, intermediateSize, epsilon, checkpointing, blocks} = attrs;
  const plan: CardPlan = {
    plan: [heads, keyValueHeads, headDim, intermediateSize, numberOf(checkpointing), blocks.length],
    numbers: [epsilon],
  };
  for (const projection of blocks.flat()) planProjection(plan, projection);
  return plan;
}

/** Adds a weight, and the rank and the scaling of its low-rank path. */
export function planProjection(plan: CardPlan, projection: ProjectionAttributes): void {
  planWeight(plan, projection);
  plan.plan.push(projection.rank);
  plan.numbers.push(projection.scaling);
}

export const planAttributes = (ops: Ops, {plan, numbers}: CardPlan): OpAttribute[] => [
  ops.listAttribute('plan', 'int', plan),
  ops.listAttribute('numbers', 'float', numbers),
];
