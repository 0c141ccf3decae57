import type * as tf from '@tensorflow/tfjs';
import {type Ops, runOps} from './runOps.ts';
import type {Handle, TensorFlowBackend} from './tensorflowBackend.ts';

interface LoRALinearArgs {
  inputs: Record<'base' | 'x' | 'a' | 'b' | 'dy', tf.TensorInfo>;
  attrs: {scaling: number};
  backend: unknown;
}

/** `LoRALinear` (layers/ops/loraLinear.ts). */
export const loraLinear = {
  kernelName: 'LoRALinear',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend} = args as LoRALinearArgs;
    return runOps(backend as TensorFlowBackend, inputs, (ops, {base, x, a, b}) => [
      ops.add(base, ops.matMul(low(ops, x, a, attrs.scaling), b, false, true)),
    ])[0];
  },
} as const;

/** Gradients of `base`, `x`, `a` and `b`; `x · Aᵀ` is made again. */
export const loraLinearGrad = {
  kernelName: 'LoRALinearGrad',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as LoRALinearArgs;
    const backend = anyBackend as TensorFlowBackend;
    const {dy, x, a, b} = inputs;
    const [dx, da, db] = runOps(backend, {dy, x, a, b}, (ops, handles) => {
      const lowGradient = ops.mul(ops.matMul(handles.dy, handles.b), ops.scalar(attrs.scaling)); // [N, rank]
      return [
        ops.matMul(lowGradient, handles.a),
        ops.matMul(lowGradient, handles.x, true),
        ops.matMul(handles.dy, low(ops, handles.x, handles.a, attrs.scaling), true),
      ];
    });
    backend.incRef(dy.dataId); // the gradient of base is dy itself
    return [{dataId: dy.dataId, shape: dy.shape, dtype: dy.dtype}, dx, da, db];
  },
} as const;

/** `scaling · x · Aᵀ`, `[N, rank]` */
function low(ops: Ops, x: Handle, a: Handle, scaling: number): Handle {
  return ops.mul(ops.matMul(x, a, false, true), ops.scalar(scaling));
}
