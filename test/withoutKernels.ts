import * as tf from '@tensorflow/tfjs';

/** Takes kernels from the active backend; the result puts them back. */
function removeKernels(names: string[]): () => void {
  const backend = tf.getBackend();
  const kernels = names.map((name) => tf.getKernel(name, backend)).filter((kernel) => kernel != null);
  for (const {kernelName} of kernels) tf.unregisterKernel(kernelName, backend);
  return () => {
    for (const kernel of kernels) tf.registerKernel(kernel);
  };
}

/** Runs `fn` as on a backend that has no such kernels: ops run as they are composed. */
export function withoutKernels<T>(names: string[], fn: () => T): T {
  const restore = removeKernels(names);
  try {
    return fn();
  } finally {
    restore();
  }
}

/**
 * Describes ops twice, by their kernels and as they are composed: where every backend has a kernel, nothing else would test
 * the reference that kernels are compared with. For use within `describeEachBackend`.
 *
 * @param names of the kernels that are switched off
 */
export function describeComposedToo(names: string[], body: () => void): void {
  describe('by a kernel, where there is one', body);
  describe('composed', () => {
    let restore: () => void;
    beforeAll(() => {
      restore = removeKernels(names);
    });
    afterAll(() => restore());
    body();
  });
}
