import type * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from '../device/webgpuBackend.ts';
import {expand, gradientOfFactor, project, transposed} from './lowRank.ts';

interface LoRALinearArgs {
  inputs: Record<'base' | 'x' | 'a' | 'b' | 'dy', tf.TensorInfo>;
  attrs: {scaling: number};
  backend: unknown;
}

/** `LoRALinear` (layers/ops/loraLinear.ts). */
export const loraLinear = {
  kernelName: 'LoRALinear',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as LoRALinearArgs;
    const backend = anyBackend as WebGPUBackend;
    const {base, x, a, b} = inputs;
    const low = project(backend, x, a, attrs.scaling); // [N, rank]
    const wideB = transposed(backend, b); // [rank, units]
    const y = expand(backend, low, wideB, base);
    for (const {dataId} of [low, wideB]) backend.disposeData(dataId);
    return y;
  },
} as const;

/** Gradients of `base`, `x`, `a` and `b`; `x · Aᵀ` is made again. */
export const loraLinearGrad = {
  kernelName: 'LoRALinearGrad',
  backendName: 'webgpu',
  kernelFunc: (args: unknown) => {
    const {inputs, attrs, backend: anyBackend} = args as LoRALinearArgs;
    const backend = anyBackend as WebGPUBackend;
    const {dy, x, a, b} = inputs;
    const wideB = transposed(backend, b); // [rank, units]
    const lowGradient = project(backend, dy, wideB, attrs.scaling); // [N, rank]
    const low = project(backend, x, a, attrs.scaling); // [N, rank]
    const dx = expand(backend, lowGradient, a);
    const da = gradientOfFactor(backend, lowGradient, x, false);
    const db = gradientOfFactor(backend, low, dy, true);
    for (const {dataId} of [wideB, lowGradient, low]) backend.disposeData(dataId);
    backend.incRef(dy.dataId); // the gradient of base is dy itself
    return [{dataId: dy.dataId, shape: dy.shape, dtype: dy.dtype}, dx, da, db];
  },
} as const;
