import {registerCpuKernels} from './cpu/registerCpuKernels.ts';
import {registerWasmKernels} from './wasm/registerWasmKernels.ts';

/** Registers this library's kernels with TensorFlow.js, for every backend that has some. Repeating it is harmless. */
export function registerKernels(): void {
  registerCpuKernels();
  registerWasmKernels();
}
