import {decodeStackOp} from '../../../ops/decodeStack.ts';
import type {PreparedStack} from '../../../ops/stackBlock.ts';
import {opsKernel} from '../device/opsKernel.ts';
import type {Ops} from '../device/runOps.ts';
import type {Handle, OpAttribute} from '../device/tensorflowBackend.ts';
import {stackPlan, stackTables, stackTensors} from './decoderStack.ts';

/** What the op is given of a stack beside the caches. */
interface StackHandles {
  attributes: OpAttribute[];
  tensors: Handle[];
}

const handlesByStack = new WeakMap<PreparedStack, StackHandles>();

/** `DecodeStack` (layers/ops/decodeStack.ts): the new position is written into the caches' own memory. */
export const decodeStack = opsKernel(decodeStackOp, (ops, handles, {past, stack}) => {
  const {attributes, tensors} = handlesOf(ops, stack);
  const places = Array.from(stack.attributes.blocks.keys());
  const cached = [...places.map((i) => handles[`keys${i}`]), ...places.map((i) => handles[`values${i}`])];
  const given = [ops.constant([], Int32Array.of(past)), handles.x, ...stackTables(ops, handles)];
  return ops.fused('DecodeStack', given, attributes, 1, [...cached, ...tensors])[0];
});

/** The tensors of a stack stay as they are, so that their handles do too. */
function handlesOf(ops: Ops, stack: PreparedStack): StackHandles {
  const known = handlesByStack.get(stack);
  if (known) return known;
  const handles = {attributes: stackPlan(ops, stack.attributes), tensors: stackTensors(ops, stack)};
  handlesByStack.set(stack, handles);
  return handles;
}
