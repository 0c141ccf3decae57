/** Returns the processor's name and the number of threads it runs in parallel. */
export async function processor(): Promise<{model: string; cores: number}> {
  if (!isNode()) {
    const {userAgent = 'unknown', hardwareConcurrency = 1} = globalThis.navigator ?? {};
    return {model: userAgent, cores: hardwareConcurrency};
  }
  const os = await nodeModule<typeof import('node:os')>('os');
  const cores = os.availableParallelism?.() ?? os.cpus().length;
  return {model: os.cpus()[0]?.model.trim() || os.arch(), cores};
}

/** Whether this is Node, as opposed to a browser. */
export function isNode(): boolean {
  return typeof globalThis.process?.versions?.node === 'string';
}

/**
 * Loads one of Node's own modules, as the mutable object that `require` returns. The name is assembled at run time, so
 * that bundlers for browsers do not look for the module.
 */
export async function nodeModule<T>(name: string): Promise<T> {
  const specifier = `node:${name}`;
  const namespace = await import(/* @vite-ignore */ /* webpackIgnore: true */ specifier);
  return namespace.default as T;
}
