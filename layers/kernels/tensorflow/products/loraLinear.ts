import {loraLinearOp} from '../../../ops/loraLinear.ts';
import {kernel} from '../../kernel.ts';
import {opsKernel} from '../device/opsKernel.ts';
import {type Ops, runOps} from '../device/runOps.ts';
import type {Handle} from '../device/tensorflowBackend.ts';

/** `LoRALinear` (layers/ops/loraLinear.ts). */
export const loraLinear = opsKernel(loraLinearOp, (ops, {base, x, a, b}, {scaling}) =>
  ops.add(base, ops.matMul(low(ops, x, a, scaling), b, false, true)),
);

/** Gradients of `base`, `x`, `a` and `b`; `x · Aᵀ` is computed again. */
export const loraLinearGrad = kernel(loraLinearOp.gradient, 'tensorflow', ({inputs, attrs, backend}) => {
  const gradients = runOps(backend, inputs, (ops, {dy, x, a, b}) => {
    const lowGradient = ops.mul(ops.matMul(dy, b), ops.scalar(attrs.scaling)); // [N, rank]
    return [
      ops.matMul(lowGradient, a),
      ops.matMul(lowGradient, x, true),
      ops.matMul(dy, low(ops, x, a, attrs.scaling), true),
    ];
  });
  const {dataId, shape, dtype} = inputs.dy;
  backend.incRef(dataId); // the gradient of base is dy itself
  return [{dataId, shape, dtype}, ...gradients];
});

/** Returns `scaling · x · Aᵀ`, `[N, rank]`. */
function low(ops: Ops, x: Handle, a: Handle, scaling: number): Handle {
  return ops.mul(ops.matMul(x, a, false, true), ops.scalar(scaling));
}
