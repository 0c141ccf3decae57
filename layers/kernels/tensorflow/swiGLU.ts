import type * as tf from '@tensorflow/tfjs';
import {runOps} from './runOps.ts';
import type {TensorFlowBackend} from './tensorflowBackend.ts';

interface SwiGLUArgs {
  inputs: {gate: tf.TensorInfo; up: tf.TensorInfo};
  backend: unknown;
}

/** `SwiGLU` (layers/ops/swiGLU.ts). */
export const swiGLU = {
  kernelName: 'SwiGLU',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, backend} = args as SwiGLUArgs;
    return runOps(backend as TensorFlowBackend, inputs, (ops, {gate, up}) => {
      if (ops.areFused) return ops.fused('SwiGLU', [gate, up], [], 1);
      return [ops.mul(ops.mul(gate, ops.one('Sigmoid', [gate])), up)];
    })[0];
  },
} as const;

/** Gradients of `gate`, `dy · up · (s + gate · s · (1 − s))` with s the gate's sigmoid, and of `up`, `dy · gate · s`. */
export const swiGLUGrad = {
  kernelName: 'SwiGLUGrad',
  backendName: 'tensorflow',
  kernelFunc: (args: unknown) => {
    const {inputs, backend} = args as SwiGLUArgs & {inputs: {dy: tf.TensorInfo}};
    const {dy, gate, up} = inputs;
    return runOps(backend as TensorFlowBackend, {dy, gate, up}, (ops, handles) => {
      if (ops.areFused) return ops.fused('SwiGLUGrad', [handles.dy, handles.gate, handles.up], [], 2);
      const sigmoid = ops.one('Sigmoid', [handles.gate]);
      const dUp = ops.mul(handles.dy, ops.mul(handles.gate, sigmoid));
      // SigmoidGrad is s · (1 − s) · its second input.
      const throughSigmoid = ops.one('SigmoidGrad', [sigmoid, handles.gate]);
      const dGate = ops.mul(ops.mul(handles.dy, handles.up), ops.add(sigmoid, throughSigmoid));
      return [dGate, dUp];
    });
  },
} as const;
