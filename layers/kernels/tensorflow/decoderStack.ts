import type * as tf from '@tensorflow/tfjs';
import type {Checkpointing} from '../../ops/checkpoint.ts';
import type {PreparedStack, StackAttributes} from '../../ops/stackBlock.ts';
import {asWords, type CardPlan, planWeight} from './cardWeights.ts';
import {keepOnCard} from './keepOnCard.ts';
import {type Ops, runOps} from './runOps.ts';
import {DataType, type Handle, type OpAttribute, type TensorFlowBackend} from './tensorflowBackend.ts';

interface DecoderStackArgs {
  /** `x` or `dy` and `saved`, and the tables. */
  inputs: Record<string, tf.TensorInfo>;
  attrs: {stack: PreparedStack; isRecorded: boolean; isInputTrained: boolean};
  backend: unknown;
}

/** As `Checkpointing` in native/cuda/engine.h. */
const numberOf = (checkpointing: Checkpointing): number =>
  checkpointing === 'offload' ? 2 : Number(checkpointing);

/** `DecoderStack` (layers/ops/decoderStack.ts). Second output, if it is recorded: what backward needs, in words of no meaning here. */
export const decoderStack = {
  kernelName: 'DecoderStack',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as DecoderStackArgs;
    const backend = anyBackend as TensorFlowBackend;
    return runOps(backend, inputs, (ops, handles) => {
      const attributes = [
        ...stackPlan(ops, attrs.stack.attributes),
        ops.boolAttribute('is_recorded', attrs.isRecorded),
      ];
      const given = [handles.x, ...stackTables(ops, handles)];
      const tensors = stackTensors(ops, backend, attrs.stack);
      const [y, saved, onHost] = ops.fused('DecoderStack', given, attributes, 3, tensors);
      if (!attrs.isRecorded) return [y];
      return [y, attrs.stack.attributes.checkpointing === 'offload' ? onHost : saved];
    });
  },
} as const;

/** Gradients of `x`, unless it gets none, and of each A and B in turn. */
export const decoderStackGrad = {
  kernelName: 'DecoderStackGrad',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as DecoderStackArgs;
    const backend = anyBackend as TensorFlowBackend;
    return runOps(backend, inputs, (ops, handles) => {
      const count = 2 * attrs.stack.attributes.blocks.flat().filter(({rank}) => rank > 0).length;
      const attributes = [
        ...stackPlan(ops, attrs.stack.attributes),
        ops.boolAttribute('wants_input', attrs.isInputTrained),
        ops.intAttribute('M', count),
      ];
      const isOnHost = attrs.stack.attributes.checkpointing === 'offload';
      const saved = isOnHost ? [ops.nothing(), handles.saved] : [handles.saved, ops.nothing()];
      const given = [handles.dy, ...saved, ...stackTables(ops, handles)];
      const tensors = stackTensors(ops, backend, attrs.stack);
      const [dx, ...gradients] = ops.fused('DecoderStackGrad', given, attributes, 1 + count, tensors);
      return attrs.isInputTrained ? [dx, ...gradients] : gradients;
    });
  },
} as const;

/** The tensors of a stack as ops of a card take them. */
export function stackTensors(ops: Ops, backend: TensorFlowBackend, {tensors}: PreparedStack): Handle[] {
  keepOnCard(backend, tensors);
  return Object.values(tensors).map((tensor) => asWords(ops, ops.borrow(tensor as tf.TensorInfo)));
}

/** Tables and segments as ops of a card take them. */
export function stackTables(ops: Ops, {cos, sin, segments}: Record<string, Handle>): Handle[] {
  return [cos, sin, segments ? ops.cast(segments, DataType.float32) : ops.nothing()];
}

/** See `DecoderStackOp` in native/cuda/ops.cc, which reads it in this order. */
export function stackPlan(ops: Ops, attrs: StackAttributes): OpAttribute[] {
  const {heads, keyValueHeads, headDim, intermediateSize, epsilon, checkpointing, blocks} = attrs;
  const plan: CardPlan = {
    plan: [heads, keyValueHeads, headDim, intermediateSize, numberOf(checkpointing), blocks.length],
    numbers: [epsilon],
  };
  for (const projection of blocks.flat()) {
    planWeight(plan, projection);
    plan.plan.push(projection.rank);
    plan.numbers.push(projection.scaling);
  }
  return [ops.listAttribute('plan', 'int', plan.plan), ops.listAttribute('numbers', 'float', plan.numbers)];
}
