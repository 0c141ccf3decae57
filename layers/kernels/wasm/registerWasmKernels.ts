/** Registers this library's kernels for the `wasm` backend. */
export function registerWasmKernels(): void {}
