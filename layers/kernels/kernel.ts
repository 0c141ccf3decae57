import type * as tf from '@tensorflow/tfjs';
import type {Op} from '../ops/op.ts';
import type {CpuBackend} from './cpu/cpuBackend.ts';
import type {TensorFlowBackend} from './tensorflow/device/tensorflowBackend.ts';
import type {WasmBackend} from './wasm/wasmBackend.ts';
import type {WebGPUBackend} from './webgpu/device/webgpuBackend.ts';

/** The type of each backend, as its kernels use it. */
interface Backends {
  cpu: CpuBackend;
  tensorflow: TensorFlowBackend;
  wasm: WasmBackend;
  webgpu: WebGPUBackend;
}

/** The arguments of a kernel. */
export interface KernelCall<Inputs, Attributes, Name extends keyof Backends> {
  inputs: Inputs;
  attrs: Attributes;
  backend: Backends[Name];
}

/** The result of a kernel for an op's output: a list for a list. */
export type KernelResult<Output, Each = tf.TensorInfo> = Output extends readonly unknown[] ? Each[] : Each;

/** Declares a backend's kernel for an op, whose declaration types it. Register it with `tf.registerKernel`. */
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

/** A kernel that replaces a stock one; see {@link stockKernel} and `replaceStockKernel`. */
export interface StockKernel {
  kernelName: string;
  backendName: string;
  /** Makes the kernel from the stock one. */
  make(stock: tf.KernelFunc): tf.KernelConfig;
}

/**
 * Declares a {@link kernel} that replaces TensorFlow.js's own but leaves some inputs to it: `stock` runs it with the
 * same arguments.
 */
export function stockKernel<
  Inputs extends object,
  Attributes extends object,
  Output,
  Name extends keyof Backends,
>(
  op: Op<Inputs, Attributes, Output>,
  backendName: Name,
  run: (
    call: KernelCall<Inputs, Attributes, Name>,
    stock: () => KernelResult<Output>,
  ) => KernelResult<Output>,
): StockKernel {
  return {
    kernelName: op.kernelName,
    backendName,
    make: (stock) =>
      kernel(op, backendName, (call) => run(call, () => stock(call as never) as KernelResult<Output>)),
  };
}
