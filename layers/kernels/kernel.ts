import type * as tf from '@tensorflow/tfjs';
import type {Op} from '../ops/op.ts';
import type {CpuBackend} from './cpu/cpuBackend.ts';
import type {TensorFlowBackend} from './tensorflow/tensorflowBackend.ts';
import type {WasmBackend} from './wasm/wasmBackend.ts';
import type {WebGPUBackend} from './webgpu/device/webgpuBackend.ts';

/** What kernels use of each backend. */
interface Backends {
  cpu: CpuBackend;
  tensorflow: TensorFlowBackend;
  wasm: WasmBackend;
  webgpu: WebGPUBackend;
}

/** What a kernel is called with. */
export interface KernelCall<Inputs, Attributes, Name extends keyof Backends> {
  inputs: Inputs;
  attrs: Attributes;
  backend: Backends[Name];
}

/** What a kernel gives for an op's output: a list for a list. */
export type KernelResult<Output, Each = tf.TensorInfo> = Output extends readonly unknown[] ? Each[] : Each;

/** A backend's kernel for an op, whose declaration types it; to be registered with `tf.registerKernel`. */
export function kernel<Inputs extends object, Attributes extends object, Output, Name extends keyof Backends>(
  {kernelName}: Op<Inputs, Attributes, Output>,
  backendName: Name,
  run: (call: KernelCall<Inputs, Attributes, Name>) => KernelResult<Output>,
): tf.KernelConfig {
  return {
    kernelName,
    backendName,
    kernelFunc: (call) => run(call as unknown as KernelCall<Inputs, Attributes, Name>),
  };
}
