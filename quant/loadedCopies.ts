/** Where a process lists its copies of the library, which do not share their registries. */
const LIST = Symbol.for('tfjs-lora.loadedCopies');
const everyone = globalThis as {[LIST]?: string[]};
everyone[LIST] ??= [];
const copies = everyone[LIST];
copies.push(import.meta.url);

/**
 * Returns the URLs of the copies of the library that this process has loaded, in that order. A second one is a CommonJS
 * module beside ES modules, or another installation.
 */
export function loadedCopies(): readonly string[] {
  return copies;
}
