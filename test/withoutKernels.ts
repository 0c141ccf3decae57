import * as tf from '@tensorflow/tfjs';

/** Removes kernels from the active backend; the result registers them again. */
function removeKernels(names: string[]): () => void {
  const backend = tf.getBackend();
  const kernels = names.map((name) => tf.getKernel(name, backend)).filter((kernel) => kernel != null);
  for (const {kernelName} of kernels) tf.unregisterKernel(kernelName, backend);
  return () => {
    for (const kernel of kernels) tf.registerKernel(kernel);
  };
}

/** Runs `fn` as on a backend without these kernels, where the composed ops run. */
export function withoutKernels<T>(names: string[], fn: () => T): T {
  const restore = removeKernels(names);
  try {
    return fn();
  } finally {
    restore();
  }
}

/**
 * Describes ops twice, with their kernels and composed. When every backend has a kernel, nothing else would test
 * the reference that kernels are compared with. For use within `describeEachBackend`.
 *
 * @param names kernels to remove
 */
export function describeComposedToo(names: string[], body: () => void): void {
  describe('by a kernel, if there is one', body);
  describe('composed', () => {
    let restore: () => void;
    beforeAll(() => {
      restore = removeKernels(names);
    });
    afterAll(() => restore());
    body();
  });
}
