import {decodeStackOp} from '../../../ops/decodeStack.ts';
import type {PreparedStack} from '../../../ops/stackBlock.ts';
import {opsKernel} from '../device/opsKernel.ts';
import type {Ops} from '../device/runOps.ts';
import type {Handle, OpAttribute} from '../device/tensorflowBackend.ts';
import {stackPlan, stackTables, stackTensors} from './decoderStack.ts';

/** The inputs that the op gets of a stack in addition to the caches. */
interface StackHandles {
  attributes: OpAttribute[];
  tensors: Handle[];
}

const handlesByStack = new WeakMap<PreparedStack, StackHandles>();

/** `DecodeStack` (layers/ops/decodeStack.ts). It writes the new position into the caches' own memory. */
export const decodeStack = opsKernel(decodeStackOp, (ops, handles, {past, stack}) => {
  const {attributes, tensors} = handlesOf(ops, stack);
  const places = Array.from(stack.attributes.blocks.keys());
  const cached = [...places.map((i) => handles[`keys${i}`]), ...places.map((i) => handles[`values${i}`])];
  const given = [ops.constant([], Int32Array.of(past)), handles.x, ...stackTables(ops, handles)];
  return ops.fused('DecodeStack', given, attributes, 1, [...cached, ...tensors])[0];
});

/** Returns the handles of a stack, which are made once because its tensors do not change. */
function handlesOf(ops: Ops, stack: PreparedStack): StackHandles {
  const known = handlesByStack.get(stack);
  if (known) return known;
  const handles = {attributes: stackPlan(ops, stack.attributes), tensors: stackTensors(ops, stack)};
  handlesByStack.set(stack, handles);
  return handles;
}
