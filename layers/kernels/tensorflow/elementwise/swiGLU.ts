import {swiGLUOp} from '../../../ops/swiGLU.ts';
import {opsKernel} from '../device/opsKernel.ts';

/** `SwiGLU` (layers/ops/swiGLU.ts). */
export const swiGLU = opsKernel(swiGLUOp, (ops, {gate, up}) => {
  if (ops.areFused) return ops.fused('SwiGLU', [gate, up], [], 1)[0];
  return ops.mul(ops.mul(gate, ops.one('Sigmoid', [gate])), up);
});

/** Gradients of `gate`, `dy · up · (s + gate · s · (1 − s))` with s the gate's sigmoid, and of `up`, `dy · gate · s`. */
export const swiGLUGrad = opsKernel(swiGLUOp.gradient, (ops, {dy, gate, up}) => {
  if (ops.areFused) return ops.fused('SwiGLUGrad', [dy, gate, up], [], 2);
  const sigmoid = ops.one('Sigmoid', [gate]);
  const dUp = ops.mul(dy, ops.mul(gate, sigmoid));
  // SigmoidGrad is s · (1 − s) · its second input.
  const throughSigmoid = ops.one('SigmoidGrad', [sigmoid, gate]);
  const dGate = ops.mul(ops.mul(dy, up), ops.add(sigmoid, throughSigmoid));
  return [dGate, dUp];
});
