/** Registers this library's kernels for the `cpu` backend. */
export function registerCpuKernels(): void {}
