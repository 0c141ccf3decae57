import {backendTraits, type CompileProgress} from './backendTraits.ts';

/**
 * Compiles the shaders that `run` needs in parallel, on as many threads as the driver offers. Without this, each shader
 * is compiled when it is first used, one after the other, while the program waits. `run` is called once, without
 * computing anything. Backends that do not compile shaders do not call it.
 *
 * @param run synchronous; it must neither read values nor keep tensors nor change state
 * @throws TfjsLoraError `UNSUPPORTED` when tensors are left behind, and what `run` throws
 */
export async function compileShaders(run: () => void, onProgress?: CompileProgress): Promise<void> {
  await backendTraits().compileShaders?.(run, onProgress);
}
