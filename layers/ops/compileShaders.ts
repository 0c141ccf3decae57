import {backendTraits, type CompileProgress} from './backendTraits.ts';

/**
 * Compiles, all at once and on as many threads as the driver takes, the shaders that `run` needs; otherwise each is compiled
 * where it is met first, one after the other, and the program stands still. For that `run` is called once without anything
 * being computed. On backends that compile nothing it is not called.
 *
 * @param run synchronous; it must not read values nor keep tensors, and changes no state that counts
 * @throws TfjsLoraError `UNSUPPORTED` when tensors are left behind, and what `run` throws
 */
export async function compileShaders(run: () => void, onProgress?: CompileProgress): Promise<void> {
  await backendTraits().compileShaders?.(run, onProgress);
}
