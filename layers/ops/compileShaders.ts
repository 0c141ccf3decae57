import * as tf from '@tensorflow/tfjs';

/** Told at the beginning, with 0, and whenever one more is compiled; not at all where none is missing. */
export type CompileProgress = (compiled: number, total: number) => void | Promise<void>;

/** Of the backends that compile shaders, what does it ahead of time. */
export const shaderCompilers = new WeakMap<
  object,
  (run: () => void, onProgress?: CompileProgress) => Promise<void>
>();

/**
 * Compiles, all at once and on as many threads as the driver takes, the shaders that `run` needs; otherwise each is compiled
 * where it is met first, one after the other, and the program stands still. For that `run` is called once without anything
 * being computed. On backends that compile nothing it is not called.
 *
 * @param run synchronous; it must not read values nor keep tensors, and changes no state that counts
 * @throws TfjsLoraError `UNSUPPORTED` when tensors are left behind, and what `run` throws
 */
export async function compileShaders(run: () => void, onProgress?: CompileProgress): Promise<void> {
  await shaderCompilers.get(tf.backend())?.(run, onProgress);
}
