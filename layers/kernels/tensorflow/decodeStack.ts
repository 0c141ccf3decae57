import type * as tf from '@tensorflow/tfjs';
import type {PreparedStack} from '../../ops/stackBlock.ts';
import {stackPlan, stackTables, stackTensors} from './decoderStack.ts';
import {type Ops, runOps} from './runOps.ts';
import type {Handle, OpAttribute, TensorFlowBackend} from './tensorflowBackend.ts';

interface DecodeStackArgs {
  /** `x`, the tables, and of each block `keys0`, `values0` … */
  inputs: Record<string, tf.TensorInfo>;
  attrs: {past: number; stack: PreparedStack};
  backend: unknown;
}

/** What the op is given of a stack beside the caches. */
interface StackHandles {
  attributes: OpAttribute[];
  tensors: Handle[];
}

const handlesByStack = new WeakMap<PreparedStack, StackHandles>();

/** `DecodeStack` (layers/ops/decodeStack.ts): the new position is written into the caches' own memory. */
export const decodeStack = {
  kernelName: 'DecodeStack',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as DecodeStackArgs;
    const backend = anyBackend as TensorFlowBackend;
    return runOps(backend, inputs, (ops, handles) => {
      const {attributes, tensors} = handlesOf(ops, backend, attrs.stack);
      const blocks = attrs.stack.attributes.blocks.length;
      const cached = (name: string) => Array.from({length: blocks}, (_, i) => handles[`${name}${i}`]);
      const past = ops.constant([], Int32Array.of(attrs.past));
      const given = [past, handles.x, ...stackTables(ops, handles)];
      return ops.fused('DecodeStack', given, attributes, 1, [
        ...cached('keys'),
        ...cached('values'),
        ...tensors,
      ]);
    })[0];
  },
} as const;

/** The tensors of a stack stay as they are, so that their handles do too. */
function handlesOf(ops: Ops, backend: TensorFlowBackend, stack: PreparedStack): StackHandles {
  const known = handlesByStack.get(stack);
  if (known) return known;
  const handles = {attributes: stackPlan(ops, stack.attributes), tensors: stackTensors(ops, backend, stack)};
  handlesByStack.set(stack, handles);
  return handles;
}
